"""kvtide's operator: watches caches, plans their tiers and resizes them live."""
