"""Executors: they move work, never data."""
