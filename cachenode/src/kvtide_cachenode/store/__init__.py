"""What the node holds: arena, index, tiers."""
