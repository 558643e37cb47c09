"""One batch of experience: prompts, completions, rewards, advantages. Processes sample shares of it; all end
with the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from llmzero.core.compute import Work
from llmzero.core.seeds import seed_of
from llmzero.grpo.advantages import STD_FLOOR, group_advantages, informative, soft_overlong_penalty, whiten
from llmzero.grpo.batch import Sample
from llmzero.grpo.checkpoint import Position
from llmzero.grpo.data import DataOrder
from llmzero.grpo.distributed import World
from llmzero.grpo.evaluation import decode, score_completions
from llmzero.grpo.loss import kl_divergence
from llmzero.grpo.phases import Phases
from llmzero.grpo.policy import Policy, encode_prompts
from llmzero.grpo.settings import AlgorithmSettings
from llmzero.rollout.base import Engine, Sampling, copies_before
from llmzero.tasks.base import Example, Task

Group = list[Sample]


@dataclass
class Collector:
    """Draws completions for the next prompts and rewards them."""

    task: Task
    policy: Policy
    sampler: Engine
    world: World
    hparams: dict[str, Any]
    algorithm: AlgorithmSettings
    data: DataOrder
    phases: Phases

    def collect(self, position: Position) -> tuple[list[Group], dict[str, float], Position]:
        """Return a batch of groups, its metrics, and the position after it.

        With dynamic sampling, groups whose completions are all as right as each other are replaced by groups
        of further prompts, for up to `dynamic_sampling` rounds: DAPO (arXiv 2503.14476), equation 11. What is
        still missing then is left out; a batch that has nothing to teach stays, without advantages. Metrics
        count everything that was sampled; `step_flops` is what sampling has cost.
        """
        wanted = self.hparams["prompts_per_step"]
        sampled: list[Group] = []
        kept: list[Group] = []
        for _ in range(self.algorithm.dynamic_sampling + 1):
            missing = wanted - len(kept)
            fresh = self._sample(self.data.take(position.prompts_seen, missing), position)
            position = replace(
                position,
                prompts_seen=position.prompts_seen + missing,
                sampler_calls=position.sampler_calls + 1,
            )
            sampled += fresh
            kept += [group for group in fresh if self._may_teach(group)]
            if len(kept) == wanted:
                break
        metrics = experience_metrics(sampled, self.task.metric) | {
            "prompts_sampled": float(len(sampled)),
            "step_flops": float(self.policy.arithmetic.forward(work_of(sampled))),
        }
        return kept or sampled[:wanted], metrics, position

    def _may_teach(self, group: Group) -> bool:
        """Return whether dynamic sampling keeps a group. Correctness decides, that is the task's metric: were
        it the reward, a group that is wrong throughout would teach lengths and formats alone.
        """
        return not self.algorithm.dynamic_sampling or differ(
            [s.reward.parts[self.task.metric] for s in group]
        )

    def _sample(self, examples: Sequence[Example], position: Position) -> list[Group]:
        """Return a group for each example; every process samples its share."""
        prompts = encode_prompts(self.policy.tokenizer, examples)
        share = slice(self.world.rank, None, self.world.size)
        own = examples[share]
        n = self.hparams["group_size"]
        seed = seed_of(position.data_seed, position.sampler_calls)
        longest, temperature = self.hparams["max_completion_length"], self.hparams["temperature"]
        sampling = Sampling(longest, temperature, n, seed, copies_before(prompts)[share])
        with self.phases("generation"):
            rollouts = self.sampler.generate(prompts[share], sampling)
        with self.phases("reward"):
            rewards = score_completions(self.task, own, decode(self.policy.tokenizer, rollouts.completions))
        samples = [
            self._sample_of(
                rollouts.prompts[i // n],
                completion,
                rollouts.logprobs[i],
                rollouts.finish_reasons[i],
                rewards[i],
            )
            for i, completion in enumerate(rollouts.completions)
        ]
        shares = self.world.gather([samples[i : i + n] for i in range(0, len(samples), n)])
        return [shares[i % self.world.size][i // self.world.size] for i in range(len(examples))]

    def _sample_of(
        self, prompt: list[int], completion: list[int], logprobs: list[float], finish: Any, reward: Any
    ) -> Sample:
        shaped, longest = reward.value, self.hparams["max_completion_length"]
        if self.algorithm.overlong == "soft":
            buffer = max(1, round(self.algorithm.overlong_buffer * longest))
            shaped += float(soft_overlong_penalty(torch.tensor([len(completion)]), longest, buffer))
        counts = self.algorithm.overlong != "mask" or finish == "stop"
        return Sample(prompt, completion, logprobs, finish, reward, shaped, counts=counts)

    def set_advantages(self, groups: list[Group]) -> None:
        """Turn shaped rewards into advantages, 0 for groups that dynamic sampling would not keep; where the
        divergence is in the reward, references have to be there already.
        """
        samples = [sample for group in groups for sample in group]
        rewards = torch.tensor([s.shaped_reward for s in samples])
        if self.algorithm.kl_in == "reward":
            rewards = rewards - self.hparams["kl_coef"] * torch.tensor([self._divergence(s) for s in samples])
        advantages = group_advantages(rewards, self.hparams["group_size"], self.algorithm.advantage)
        kept = torch.tensor([self._may_teach(group) for group in groups for _ in group])
        advantages = torch.where(kept, advantages, 0.0)
        if self.algorithm.whiten:
            advantages = whiten(advantages)
        for sample, advantage in zip(samples, advantages.tolist(), strict=True):
            sample.advantage = advantage

    def _divergence(self, sample: Sample) -> float:
        """Return the completion's divergence from the reference, in nats; 0 where there is none."""
        if not sample.reference:
            return 0.0
        policy, reference = torch.tensor(sample.old or sample.sampled), torch.tensor(sample.reference)
        return float(kl_divergence(policy, reference, self.algorithm.kl_estimator).sum())


def work_of(groups: Sequence[Group]) -> Work:
    """Return the work of a pass over groups of completions."""
    return Work.of((len(group[0].prompt), [len(s.completion) for s in group]) for group in groups)


def differ(values: Sequence[float]) -> bool:
    """Return whether what a group's completions earned differs."""
    return bool(informative(torch.tensor(values), len(values)))


def experience_metrics(groups: list[Group], metric: str) -> dict[str, float]:
    """Return the metrics of a batch of groups: rewards as the task gave them, without penalties, their
    variance within groups, lengths and truncation. Right is where the task's metric is 1, wrong where 0.
    """
    samples = [sample for group in groups for sample in group]
    rewards = torch.tensor([s.reward.value for s in samples])
    lengths = torch.tensor([len(s.completion) for s in samples], dtype=torch.float)
    parts = {
        f"reward_{name}": sum(s.reward.parts[name] for s in samples) / len(samples)
        for name in samples[0].reward.parts
    }
    quiet = [group for group in groups if not differ([s.reward.value for s in group])]
    scores = [[s.reward.parts[metric] for s in group] for group in quiet]
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std(correction=0)),
        "train_score": sum(s.reward.parts[metric] for s in samples) / len(samples),
        "zero_variance_groups": len(quiet) / len(groups),
        "all_right_groups": sum(min(group) >= 1 - STD_FLOOR for group in scores) / len(groups),
        "all_wrong_groups": sum(max(group) <= STD_FLOOR for group in scores) / len(groups),
        "completion_length_mean": float(lengths.mean()),
        "completion_length_max": float(lengths.max()),
        "truncated_fraction": sum(s.finish == "length" for s in samples) / len(samples),
        **parts,
    }
