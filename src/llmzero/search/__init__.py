"""The search half: tree, event store, budget, methods and driver."""
