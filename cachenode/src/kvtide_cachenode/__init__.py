"""kvtide's cache node: a bounded, resizable key-value store for KV-cache blocks."""
