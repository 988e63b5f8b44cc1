"""End-to-end tests against a real Kubernetes, and the means to have one on any Linux machine."""
