"""Shared mathematics without model names."""
