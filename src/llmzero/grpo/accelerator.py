"""DeepSpeed, told before its import that a machine without a GPU computes on the CPU."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed

__all__ = ["deepspeed"]
