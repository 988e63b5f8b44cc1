"""What was asked for: told by engines, or inferred from the accesses of other clients."""
