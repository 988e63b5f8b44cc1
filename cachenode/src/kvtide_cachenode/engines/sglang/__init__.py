"""SGLang's backend."""
