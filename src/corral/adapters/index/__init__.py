"""Where indexes are kept: the port, the local disk, and a shared store for several machines."""
