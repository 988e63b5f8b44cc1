"""Configurations in, a chosen point out."""
