"""Engines that turn prompts into completions with exact log-probabilities."""
