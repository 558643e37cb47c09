"""Analyses of finished searches. Most modules are commands: `python -m analysis.load --help`."""
