"""Reads the world: node state and access traces."""
