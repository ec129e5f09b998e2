"""What several tests build, start or compare: one module for each kind of thing."""
