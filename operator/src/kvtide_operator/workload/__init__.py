"""Traces: requests and their prefix blocks as columnar arrays."""
