"""Finding the place that a model meant when it quoted a file from memory."""
