"""From rewards to advantages, one a completion. Shapes: B completions, where each run of G rows answers one
prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 1e-4
EQUAL_REWARDS = 1e-6  # a group whose standard deviation lies below has nothing to teach


def group_advantages(rewards: Tensor, group_size: int, baseline: str = "mean_std") -> Tensor:
    """Return (B,) advantages of rewards (B,).

    - `mean_std`: (r - mean) / std of the group: DeepSeekMath (arXiv 2402.03300), section 4.1.2. A group whose
      rewards are all equal gets zeros: it teaches nothing.
    - `mean`: r - mean: Dr. GRPO (arXiv 2503.20783), section 3.1; dividing by the deviation favours too easy
      and too hard prompts.
    - `leave_one_out`: r - mean of the others: RLOO (arXiv 2402.14740), equation 8. It is `mean` times G / (G
      - 1).
    """
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if baseline == "mean":
        return centred.view(-1)
    if baseline == "leave_one_out":
        return (centred * (group_size / max(1, group_size - 1))).view(-1)
    deviation = groups.std(1, keepdim=True, correction=0)
    return torch.where(
        deviation > STD_FLOOR, centred / (deviation + STD_FLOOR), torch.zeros_like(centred)
    ).view(-1)


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


def uninformative(rewards: Tensor, group_size: int) -> Tensor:
    """Return (B / G,) whether a group's rewards are all equal, so that it has no gradient: DAPO (arXiv
    2503.14476), equation 11.
    """
    return rewards.view(-1, group_size).std(1, correction=0) < EQUAL_REWARDS
