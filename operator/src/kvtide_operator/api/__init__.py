"""The Kubernetes API as pydantic models: TieredCache, TierClass and CachePlan; the source of `crds/`."""
