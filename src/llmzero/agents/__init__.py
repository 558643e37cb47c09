"""Agents: what reads the evidence of training and decides what to change, and when to stop."""
