"""Eviction policies, pure: the node runs them and the simulator runs the same."""
