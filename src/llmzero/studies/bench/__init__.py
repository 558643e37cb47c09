"""The agent bench: decision points of real searches are put to an agent, and what it answers is scored."""
