"""A compressed network repaired block by block, towards what the original's blocks return (method.md §13 c)."""
