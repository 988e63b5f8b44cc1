"""vLLM's connector."""
