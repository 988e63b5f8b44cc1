"""The Kubernetes API as pydantic models: TieredCache and TierClass."""
