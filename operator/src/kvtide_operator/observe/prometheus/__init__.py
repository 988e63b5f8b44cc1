"""The engines' metrics, out of Prometheus."""
