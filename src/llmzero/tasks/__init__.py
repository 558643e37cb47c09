"""Task families: verifiable problems with prompts, rewards and disjoint splits."""
