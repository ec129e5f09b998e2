"""What a network is asked to do, and how well it does it: one module per kind of task."""
