"""LLMZero: adaptive multi-stage GRPO training strategies, by tree search over resumed training stages."""

__version__ = "0.1.0"
