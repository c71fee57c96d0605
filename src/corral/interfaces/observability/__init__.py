"""What is seen from outside: metrics for Prometheus, traces for OpenTelemetry, logs for people and machines."""
