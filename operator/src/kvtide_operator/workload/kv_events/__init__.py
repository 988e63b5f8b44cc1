"""Requests from the KV events that an inference engine publishes.

    payload ─► decode (one batch: what was stored) ─► order (each batch once, gaps known) ─► requests

Events tell what a prefix cache stores and drops, not what it is asked for; `requests` says what can be known
from that, and what cannot.
"""
