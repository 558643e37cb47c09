"""The training half: a GRPO stage on DeepSpeed."""
