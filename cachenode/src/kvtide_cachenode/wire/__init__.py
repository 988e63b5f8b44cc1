"""Bytes to requests and back, without I/O."""
