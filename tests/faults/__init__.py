"""Faults on purpose: kills, full disks, failing reads, signals, files that change; see results.md beside this."""
