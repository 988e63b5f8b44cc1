"""The past of caches: periods as they were recorded, and the same slot of the season before."""
