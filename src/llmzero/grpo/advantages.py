"""Group-relative advantages."""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 1e-4


def group_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Return (B,) advantages of rewards (B,), where each run of `group_size` rows answers one prompt.

    (reward - group mean) / group standard deviation: DeepSeekMath (arXiv 2402.03300), section 4.1.2. A group whose rewards
    are all equal gets zeros: it teaches nothing.
    """
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    deviation = groups.std(1, keepdim=True, correction=0)
    return torch.where(deviation > STD_FLOOR, centred / (deviation + STD_FLOOR), torch.zeros_like(centred)).view(-1)
