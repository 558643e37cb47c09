"""The training half: a GRPO loop on DeepSpeed that turns one stage's configuration into checkpoints and
scores.
"""
