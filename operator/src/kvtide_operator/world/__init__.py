"""What is: nodes, tiers and metrics as frozen dataclasses."""
