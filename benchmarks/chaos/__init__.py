"""Attempts to break what docs/reliability.md promises; each counts its trials and failures."""
