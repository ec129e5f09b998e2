"""Everything that runs a network: building it, loading its weights, measuring what it costs and is worth."""
