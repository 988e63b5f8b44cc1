"""Trace and configuration in, hits and cost out."""
