"""The tree of stages as it is kept on disk: events, budget, directory, lease, retention."""
