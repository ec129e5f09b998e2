"""How many singular values to keep: rank rules, and from an analysis to a plan."""
