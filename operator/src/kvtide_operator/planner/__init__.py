"""The process that plans, so that the one that watches never waits for computing."""
