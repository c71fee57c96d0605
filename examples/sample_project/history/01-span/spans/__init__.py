"""Arithmetic on stretches of time within a day."""
