"""What results say of themselves in a notebook."""
