"""Changes to files that keep most of their structure, so that they get past a reader's first check."""
