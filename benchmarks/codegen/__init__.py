"""How well models do small tasks."""
