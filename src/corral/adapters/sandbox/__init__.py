"""Runs untrusted commands: the port, its backends, and a double."""
