"""Networks that are never in memory as a whole: block after block."""
