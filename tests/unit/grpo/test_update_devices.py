"""An update computes on the policy's device alone.

There is no GPU here. The model lies on the meta device, which does all bookkeeping and no arithmetic, and
each of PyTorch's operations is looked at: what mixes a GPU's tensors with the CPU's is refused, as CUDA does.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmzero.core.hparams import Catalogue
from llmzero.grpo.batch import Sample
from llmzero.grpo.distributed import World
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import loss_of
from llmzero.grpo.settings import LOSSES, AlgorithmSettings, TrainerSettings
from llmzero.grpo.update import Updater
from llmzero.tasks.base import Reward
from tests.unit.grpo.test_policy import built

aten = torch.ops.aten
FETCHED = "what was fetched from the device"


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, and counts what is fetched from the meta device, of
    which it makes up the values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves([args, kwargs]) if isinstance(each, Tensor)]
        away = [each for each in tensors if each.is_meta]
        copies = function in (aten._to_copy.default, aten.copy_.default)
        if away and not copies:
            apart = [each for each in tensors if not each.is_meta and each.dim()]  # numbers go to any kernel
            assert not apart, f"{function} mixes devices: {[(each.device, each.shape) for each in tensors]}"
        self.seen[str(function)] += bool(away)
        if function is aten._local_scalar_dense.default and away:
            self.seen[FETCHED] += 1
            return 1.0
        if function is aten.index.Tensor and away and any(each.dtype == torch.bool for each in away):
            return torch.empty(3, device="meta")  # as many as the mask has, which nobody knows
        target = torch.device((kwargs or {}).get("device") or "meta")
        if function is aten._to_copy.default and away and target.type == "cpu":
            self.seen[FETCHED] += 1
            return torch.zeros(args[0].shape)
        return function(*args, **(kwargs or {}))


class Engine(torch.nn.Module):
    """What DeepSpeed does without ZeRO, but for the optimizer's step, which meta tensors do not take."""

    def __init__(self, trained: LogprobModel) -> None:
        super().__init__()
        self.module = trained
        self.optimizer = SimpleNamespace(param_groups=[{}], zero_grad=lambda: None)
        self.steps = 0

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def zero_optimization_stage(self) -> int:
        return 0

    def set_gradient_accumulation_boundary(self, _: bool) -> None:
        pass

    def step(self) -> None:
        self.steps += 1


def samples() -> list[Sample]:
    shapes = [([1, 2], [3, 4, 5]), ([1, 2], [3]), ([6], [4, 4]), ([6], [5, 6, 7, 8])]
    return [
        Sample(
            prompt,
            completion,
            [-0.5] * len(completion),
            "stop",
            Reward(1.0, {}),
            1.0,
            advantage=(-1.0) ** i,
            old=[-0.6] * len(completion),
        )
        for i, (prompt, completion) in enumerate(shapes)
    ]


@pytest.mark.parametrize("correction", ["none", "truncate", "mask"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_update_mixes_no_devices(loss: str, correction: str, catalogue: Catalogue) -> None:
    model = built("Qwen3", "Qwen3Config", {"head_dim": 8}).to("meta")
    engine: Any = Engine(LogprobModel(model))
    hparams = {**catalogue.defaults(), "kl_coef": 0.1, "entropy_coef": 0.01, "epochs": 2, "minibatches": 2}
    algorithm = AlgorithmSettings(loss=loss, correction=correction, dual_clip=3.0)
    policy: Any = SimpleNamespace(engine=engine, device=torch.device("meta"), model=model)
    reference = LogprobModel(built("Qwen3", "Qwen3Config", {"head_dim": 8}).to("meta"))
    trainer, batch = TrainerSettings(micro_batch_tokens=4), samples()
    updater = Updater(policy, World(0, 1, None), hparams, algorithm, loss_of(loss), trainer, reference)
    with OneDevice() as devices:
        updater.fill(batch)
        _, steps = updater.update(batch, 0, 0, 1e-4)
    assert [len(each.reference) for each in batch] == [3, 1, 2, 4]
    assert steps == 4 and engine.steps > 4, "a step a minibatch, and one between micro-batches"
    assert all(each.grad is not None and each.grad.is_meta for each in engine.parameters())
    assert devices.seen["aten.mm.default"] > 100 and devices.seen[FETCHED]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here @ there,
        lambda here, there: here + there,
        lambda here, there: there.gather(1, here.long()),
    ],
)
def test_what_mixes_devices_is_refused(mixed: Any) -> None:
    here, there = torch.zeros(2, 2), torch.zeros(2, 2, device="meta")
    with OneDevice(), pytest.raises((AssertionError, RuntimeError), match="device"):
        mixed(here, there)
    with OneDevice():
        assert mixed(here.to("meta"), there).is_meta and (there * torch.tensor(2.0)).is_meta
