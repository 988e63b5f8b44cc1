"""Writes the world."""
