"""What to do with finished searches: tables of them, and what the tables say. Each module is a command: `python -m analysis.load --help`."""
