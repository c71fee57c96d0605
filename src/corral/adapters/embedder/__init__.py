"""Text to vectors: the port, the static vectors inside the package, MiniLM, and services over HTTP."""
