"""From rewards to advantages, one a completion. Shapes: B completions, where each run of G rows answers one
prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 1e-4  # rewards of a group that deviate by no more count as equal


def group_advantages(rewards: Tensor, group_size: int, baseline: str = "mean_std") -> Tensor:
    """Return (B,) advantages of rewards (B,); zeros for a group that is not `informative`.

    - `mean_std`: (r - mean) / (std + STD_FLOOR) of the group: DeepSeekMath (arXiv 2402.03300), section 4.1.2.
      The deviation is the population's, over G and not over G - 1.
    - `mean`: r - mean: Dr. GRPO (arXiv 2503.20783), section 3.1; dividing by the deviation favours too easy
      and too hard prompts.
    - `leave_one_out`: r - mean of the others: RLOO (arXiv 2402.14740), equation 8. It is `mean` times G / (G
      - 1).
    """
    groups = rewards.view(-1, group_size)
    teaches = informative(rewards, group_size)[:, None]
    centred = torch.where(teaches, groups - groups.mean(1, keepdim=True), 0.0)
    if baseline == "mean":
        return centred.view(-1)
    if baseline == "leave_one_out":
        return (centred * (group_size / max(1, group_size - 1))).view(-1)
    return (centred / (groups.std(1, keepdim=True, correction=0) + STD_FLOOR)).view(-1)


def whiten(advantages: Tensor) -> Tensor:
    """Return advantages (B,) with mean 0 and standard deviation 1 over the whole batch: REINFORCE++ (arXiv
    2501.03262), section 3.
    """
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + STD_FLOOR)


def soft_overlong_penalty(lengths: Tensor, max_length: int, buffer: int) -> Tensor:
    """Return what is added to the reward, (B,), for completions of `lengths` (B,) tokens.

    0 up to `max_length - buffer` tokens, then falling linearly to -1 at `max_length`: DAPO (arXiv
    2503.14476), equation 13.
    """
    return -((lengths.float() - (max_length - buffer)) / buffer).clamp(0.0, 1.0)


def informative(rewards: Tensor, group_size: int) -> Tensor:
    """Return (B / G,) whether the rewards (B,) of a group differ: their population deviation exceeds
    `STD_FLOOR`. What compares rewards asks here, so that a group that counts has advantages.
    """
    return rewards.view(-1, group_size).double().std(1, correction=0) > STD_FLOOR
