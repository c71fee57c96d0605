"""Corral."""
