"""Memory by arithmetic: what fits on a device before anything runs."""
