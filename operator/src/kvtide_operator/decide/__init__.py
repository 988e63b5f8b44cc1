"""Plan and history in, permitted steps out."""
