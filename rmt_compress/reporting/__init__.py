"""Analyses as tables, CSV files and figures."""
