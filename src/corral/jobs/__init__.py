"""The four job types of an AI coding platform, and the registry that wires them to their parts."""
