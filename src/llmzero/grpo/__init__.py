"""The training half: a GRPO loop on DeepSpeed that turns one stage's configuration into checkpoints and scores."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks for it when it is imported
