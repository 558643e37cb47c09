"""The tree of stages as it is stored on disk: events, budget, directory, lease, retention."""
