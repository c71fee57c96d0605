"""How fast job queues on Redis are: Corral beside its peers, interleaved on one server. See ``docs/benchmarks.md``."""
