"""torch.export archives (`.pt2`): read, edited and run as data."""
