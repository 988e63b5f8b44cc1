"""The tiers' model: what each holds, what leaves it, and the channel between them."""
