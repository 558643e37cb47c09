"""The memory planner against real models, real updates and DeepSpeed itself."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from hydra import compose, initialize_config_dir
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from launchers.plan import architecture_of, engine_of, host_problems, stages_of
from llmzero.cli import resolved
from llmzero.config import LAUNCHERS, PlanConfig, checked, register
from llmzero.core.errors import UserError
from llmzero.grpo import head
from llmzero.grpo.batch import Sample, shared_out
from llmzero.grpo.limits import MIN_LENGTH_RATIO
from llmzero.grpo.packing import pack
from llmzero.grpo.settings import LoraSettings, NanoRecipe, TrainerSettings
from llmzero.planning import gpu
from llmzero.planning.advice import problems, remedies
from llmzero.planning.architecture import FAMILIES, Architecture
from llmzero.planning.gpu import phases, total, worst_phase
from llmzero.planning.host import host
from llmzero.planning.memory import GIB, MemoryModel, PackShape
from llmzero.tasks.base import Reward
from tests.conftest import REPOSITORY

MODELS = {
    "smollm2_135m": 134_515_008,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
}
PROFILES = ("one_80gb", "eight_80gb")
TRAINER = TrainerSettings(micro_batch_tokens=512)
VALUES = {
    "max_completion_length": 96,
    "group_size": 4,
    "prompts_per_step": 4,
    "kl_coef": 0.1,
    "entropy_coef": 0.01,
    "reference": "base",
}
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
}


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield


def composed(*overrides: str, name: str = "plan") -> dict[str, Any]:
    return resolved(compose(name, list(overrides)))


def plan(*overrides: str) -> PlanConfig:
    return checked(PlanConfig, composed(*overrides))


def architecture(family: str, **changes: Any) -> Architecture:
    described = {**SMALL, "model_type": family, "vocab_size": 512, "tie_word_embeddings": True, **changes}
    return Architecture.from_config(described)


def built(a: Architecture) -> Any:
    described = {name: getattr(a, name) for name in Architecture.__dataclass_fields__}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**described))


def stage(
    a: Architecture | None = None, processes: int = 1, gpu_gib: float | None = 80.0, **changes: Any
) -> MemoryModel:
    of_trainer = {key: value for key, value in changes.items() if hasattr(TRAINER, key)}
    values = VALUES | {key: value for key, value in changes.items() if key in VALUES}
    rollout = changes.get(
        "rollout", {"gpu_memory_utilization": 0.4, "tensor_parallel": 1, "max_model_len": None}
    )
    gpu = None if gpu_gib is None else gpu_gib * GIB
    trainer = replace(TRAINER, **of_trainer)
    return MemoryModel(
        a or architecture("qwen3"), trainer, engine_of(rollout), values, False, processes, 32, gpu
    )


# --- parameters ---


@pytest.mark.parametrize(("model", "parameters"), MODELS.items())
def test_parameters_are_those_of_the_real_architecture(model: str, parameters: int) -> None:
    config = composed(f"model={model}")
    a = Architecture.from_config(config["model"]["architecture"])
    with torch.device("meta"):
        assert a.parameters == sum(p.numel() for p in built(a).parameters()) == parameters
    text = (REPOSITORY / f"conf/model/{model}.yaml").read_text()
    assert f"{parameters:,} parameters" in text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_parameters_of_every_family(family: str, flags: tuple[bool, ...]) -> None:
    tied, attention, mlp = flags
    a = architecture(family, tie_word_embeddings=tied, attention_bias=attention, mlp_bias=mlp)
    with torch.device("meta"):
        assert a.parameters == sum(p.numel() for p in built(a).parameters())


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["down_proj"]])
def test_parameters_of_an_adapter_are_those_that_peft_makes(targets: Any) -> None:
    a = architecture("qwen3")
    adapted = get_peft_model(built(a), LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    assert a.adapter_parameters(LoraSettings(4, targets=targets)) == sum(
        p.numel() for p in adapted.parameters() if p.requires_grad
    )


def test_the_nano_model_is_planned_as_it_is_built() -> None:
    from llmzero.grpo.nano import _architecture, character_tokenizer
    from llmzero.tasks.countdown import Countdown

    recipe = NanoRecipe(**composed("model=nano")["model"]["recipe"])
    config = _architecture(recipe, character_tokenizer(Countdown.alphabet))
    planned = recipe.architecture(len(set(Countdown.alphabet)))
    assert Architecture.from_config(asdict(planned)) == Architecture.from_config(config.to_dict())


def test_what_the_formulas_do_not_hold_for_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.architecture\.model_type=gpt_neox: must be one of llama"):
        architecture("gpt_neox")
    with pytest.raises(UserError, match=r"model\.architecture: vocab_size missing; give what"):
        architecture("llama", vocab_size=None)
    with pytest.raises(
        UserError,
        match=r"trainer\.lora\.targets=\['c_attn'\]: must be all-linear, or a list of some of q_proj",
    ):
        architecture("qwen3").adapter_parameters(LoraSettings(4, targets=["c_attn"]))


@pytest.mark.parametrize("value", ["16", 1.5, True, 0, -1, 10**30, [1], {"a": 1}, float("nan")])
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"])
def test_sizes_are_bounded_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"model\.architecture\.{name}=.*: must be a whole number from 1 to"):
        architecture("qwen3", **{name: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "cannot be read"),
        ('{"model_type": ["llama"]}', "must be one of llama"),
        ('{"model_type": "llama", "hidden_size": "16"}', "missing"),
    ],
)
def test_a_config_of_a_stranger_is_refused_by_its_path(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    config = plan("model=hf", f"model.path={tmp_path}")
    with pytest.raises(UserError, match=rf"{tmp_path}/config\.json.*{message}"):
        architecture_of(config)


def test_constants_are_those_of_deepspeed() -> None:
    zero = DeepSpeedZeroConfig()
    assert (zero.reduce_bucket_size, zero.max_live_parameters) == (
        gpu.REDUCE_BUCKET,
        gpu.LIVE_PARAMETERS,
    )
    assert (zero.prefetch_bucket_size, zero.sub_group_size) == (gpu.PREFETCH_BUCKET, gpu.SUB_GROUP)


# --- activations of a real forward and backward pass ---


class Live(TorchDispatchMode):
    """Counts the bytes of storages that operations have made and that are still alive."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def rows_of(shape: PackShape) -> list[tuple[list[int], list[int]]]:
    """Return prompts and completions of a pack's shape: one completion of full length, the others just long
    enough to stand beside it.
    """
    prompts = torch.randint(1, 64, (shape.prompts, shape.prompt_tokens)).tolist()
    lengths = [shape.width + 1] + (shape.rows - 1) * [ceil(MIN_LENGTH_RATIO * shape.width) + 1]
    return [(prompts[i * shape.prompts // shape.rows], [1] * length) for i, length in enumerate(lengths)]


def run(here: MemoryModel, shape: PackShape) -> dict[str, float]:
    """Score a micro-batch of a shape, then run it forward and backward, twice; return the peaks, and what is
    kept for going backward.
    """
    torch.manual_seed(0)
    model = built(here.architecture).to(getattr(torch, here.trainer.dtype)).train()
    if here.trainer.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    trained, rows = head.LogprobModel(model), rows_of(shape)
    packs = [pack(rows, "cpu") for _ in range(3)]
    assert all(one.ids.shape == (1, shape.tokens) for one in packs)
    scoring, updating, saved = (
        Live([*model.parameters(), *model.buffers()]),
        Live([*model.parameters(), *model.buffers()]),
        {},
    )

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with scoring, torch.no_grad():
        trained(packs.pop(), 1.0)
    with updating:
        while packs:  # gradients accumulate
            saved.clear()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                logprobs, entropy = trained(packs.pop(), 1.0)
            (logprobs + 0.01 * entropy).sum().backward()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = sum(size for pointer, size in saved.items() if pointer not in weights)
    logits = (
        4.0 * sum(len(completion) for _, completion in rows) * here.architecture.vocab_size
    )  # of the one chunk
    return {"saved": kept - logits, "update": updating.peak, "log-probs": scoring.peak}


SHAPES: dict[str, dict[str, Any]] = {
    "groups": {},
    "one long row": {"max_completion_length": 700},
    "short completions": {"max_completion_length": 16, "group_size": 8},
}
CASES = list(itertools.product(("llama", "qwen3"), ("float32", "bfloat16"), (False, True), SHAPES))
PEAKS = {
    "update": ("gradients", "activations", "work space", "logits chunk"),
    "log-probs": ("work space", "logits chunk"),
}


@cache
def measured(
    family: str, dtype: str, checkpointing: bool, shape: str
) -> tuple[MemoryModel, dict[str, float]]:
    """Return a small stage whose head is so small that layers are the peak, and what its largest micro-batch
    takes.
    """
    here = stage(
        architecture(family, vocab_size=64),
        dtype=dtype,
        activation_checkpointing=checkpointing,
        **SHAPES[shape],
    )
    return here, run(here, here.packs[0])


@pytest.mark.parametrize(("family", "dtype", "checkpointing", "shape"), CASES)
def test_activations_are_what_a_real_update_keeps(
    family: str, dtype: str, checkpointing: bool, shape: str
) -> None:
    here, found = measured(family, dtype, checkpointing, shape)
    planned = gpu.activations(here, here.packs[0])
    if checkpointing:  # these are not there before the backward pass
        planned -= gpu.layer_bytes(here, here.packs[0]) + gpu.bias(here, here.packs[0])
    assert planned == pytest.approx(found["saved"], rel=0.15)


@pytest.mark.parametrize(("family", "dtype", "checkpointing", "shape"), CASES)
def test_the_peaks_of_scoring_and_of_a_real_update_are_planned(
    family: str, dtype: str, checkpointing: bool, shape: str
) -> None:
    here, found = measured(family, dtype, checkpointing, shape)
    for phase, names in PEAKS.items():
        planned = sum(phases(here)[phase][name] for name in names)
        assert 0.95 <= planned / found[phase] <= 1.35  # parts whose peaks do not quite coincide are added up


def test_all_layers_share_one_bias() -> None:
    long = stage(architecture("qwen3", vocab_size=64), max_completion_length=700)
    deep = replace(long, architecture=replace(long.architecture, num_hidden_layers=12))
    shape, layers = long.packs[0], 12 - SMALL["num_hidden_layers"]
    a_layer = (run(deep, shape)["saved"] - run(long, shape)["saved"]) / layers
    assert a_layer == pytest.approx(gpu.layer_bytes(long, shape), rel=0.1)
    assert gpu.bias(long, shape) > 0.2 * a_layer  # which would have been noticed


def test_an_engine_holds_the_longer_of_training_and_validation() -> None:
    plain = {"rollout": {"max_rows": 8}}
    short, long = stage(**plain), stage(**plain, validation_max_tokens=960)
    assert (short.sampled, long.sampled, long.length) == (32 + 96, 32 + 960, short.length)
    assert stage(**plain, validation_max_tokens=12).sampled == short.sampled
    cache = "KV cache or vLLM pool"
    more = phases(long)["generation"][cache] - phases(short)["generation"][cache]
    assert more == 8 * (960 - 96) * long.architecture.cache_bytes(4)
    assert phases(long)["update"] == phases(short)["update"]
    engine = {"gpu_memory_utilization": 0.4, "tensor_parallel": 1, "max_model_len": 512}
    assert problems(stage(rollout=engine)) == []
    assert "are 992 tokens" in problems(stage(rollout=engine, validation_max_tokens=960))[0]


@pytest.mark.parametrize("length", [96, 9_968])
def test_longer_completions_need_more_for_the_bias_and_less_for_copies_of_their_prompts(length: int) -> None:
    here = stage(micro_batch_tokens=100_000, max_completion_length=length)
    (largest,) = here.packs
    attended = 32 + length - 1
    written = largest.rows * (length - 1)
    assert gpu.bias(here, largest) == written * 4 * attended
    copies = gpu.layer_bytes(here, largest) - largest.tokens * here.architecture.saved_bytes(4)
    keys_and_values = 2 * 4 * 32 * 4  # four heads of 32 in float32
    assert copies / written == pytest.approx(keys_and_values * attended / (length - 1))


# --- what a micro-batch holds ---


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (64, (1, 1)),
        (220, (1, 2)),
        (512, (2, 5)),
        (4096, (12, 45)),
    ],  # one row at least; rows of a cut group; whole groups and some of one more
)
def test_a_micro_batch_holds_what_fits_beside_prompts(budget: int, expected: tuple[int, int]) -> None:
    (largest,) = stage(micro_batch_tokens=budget).packs
    assert (largest.prompts, largest.rows) == expected
    assert (largest.prompt_tokens, largest.width) == (32, 95)


@pytest.mark.parametrize("budget", [64, 220, 512, 1000, 4096])
@pytest.mark.parametrize("processes", [1, 3])
def test_the_trainer_makes_no_micro_batch_larger_than_planned(budget: int, processes: int) -> None:
    draw = random.Random(budget)
    (largest,) = stage(micro_batch_tokens=budget).packs
    lengths = [draw.randint(ceil(MIN_LENGTH_RATIO * 95) + 1, 96) for _ in range(64)]
    samples = [
        Sample([i // 4] * 32, [1] * n, [0.0] * n, "stop", Reward(0.0, {}), 0.0) for i, n in enumerate(lengths)
    ]
    for rank in range(processes):
        for chunk, _ in shared_out(samples, budget, rank, processes):
            made = pack([(sample.prompt, sample.completion) for sample in chunk], "cpu")
            assert made.ids.shape[1] <= largest.tokens
            assert sum(len(block.lengths) * (32 + block.width) for block in made.blocks[1:]) <= largest.keys


def test_the_worst_in_bounds_is_the_worst_of_every_length_that_may_be_chosen() -> None:
    for arguments in (["model=qwen3_0_6b"], ["model=qwen3_1_7b", "trainer.micro_batch_tokens=2048"]):
        _, worst = stages_of(plan(*arguments, "hardware=one_80gb"))
        assert [largest.width + 1 for largest in worst.packs] == [256, worst.values["max_completion_length"]]
        needed = {name: total(parts) for name, parts in phases(worst).items()}
        for length in (256, 512, 1024, 2048, 4096):
            chosen = replace(worst, values=worst.values | {"max_completion_length": length}, shortest=None)
            assert all(
                total(parts) <= 1.02 * needed[name] for name, parts in phases(chosen).items()
            )  # rows are whole


# --- states under ZeRO ---


def test_states_of_plain_float32() -> None:
    a = architecture("qwen3")
    found = gpu.states(stage(a, processes=4))
    p = a.parameters
    assert found == {
        "weights": 4 * p,
        "optimizer moments": 8 * p,
        "master weights": 0,
        "reference model": 4 * p,
    }
    assert gpu.gradients(stage(a, processes=4)) == 4 * p


@pytest.mark.parametrize(("zero", "weights", "gradients"), [(0, 2, 2), (1, 2, 2), (2, 2, 0.5), (3, 0.5, 0.5)])
def test_states_of_bfloat16_are_spread_over_four_processes(
    zero: int, weights: float, gradients: float
) -> None:
    a = architecture("qwen3")
    here = stage(a, processes=4, dtype="bfloat16", zero_stage=zero)
    p, found = a.parameters, gpu.states(here)
    assert found == {
        "weights": weights * p,
        "optimizer moments": 2 * p,
        "master weights": p,
        "reference model": 2 * p,
    }
    assert gpu.gradients(here) == gradients * p


def test_an_offloaded_optimizer_is_in_main_memory() -> None:
    a = architecture("qwen3")
    here = stage(a, dtype="bfloat16", zero_stage=2, offload_optimizer=True)
    assert gpu.states(here)["optimizer moments"] == gpu.states(here)["master weights"] == 0
    assert gpu.gradients(here) == 2 * a.embedding
    p = a.parameters
    offloaded = host(here)["training"]["offloaded optimizer"]
    assert 20 * p <= offloaded <= 8 * p + 2 * p + 2 * 10 * p  # pinned blocks are rounded up to powers of two
    assert host(here)["checkpoint"]["checkpoint being written"] == 14 * p


def test_an_adapter_trains_little_and_needs_no_reference() -> None:
    a = architecture("qwen3")
    here = stage(a, dtype="bfloat16", lora=LoraSettings(4, 8))
    few = a.adapter_parameters(LoraSettings(4))
    assert gpu.states(here)["optimizer moments"] == 8 * few
    assert gpu.states(here)["reference model"] == 0
    assert (
        gpu.states(replace(here, values=VALUES | {"reference": "parent"}))["reference model"]
        == 2 * a.parameters
    )


def test_without_a_coefficient_no_reference_and_no_logprob_phase() -> None:
    here = stage(kl_coef=0.0)
    assert gpu.states(here)["reference model"] == 0
    assert "log-probs" not in phases(here)
    assert "log-probs" in phases(replace(here, corrected=True))


ENGINE = """
import json, torch
from dataclasses import replace
from llmzero.grpo.distributed import join
from llmzero.grpo.limits import MIN_LENGTH_RATIO
from llmzero.grpo.packing import pack
from llmzero.grpo.settings import LoraSettings, NanoRecipe, TrainerSettings
from llmzero.grpo.policy import apply_update, deepspeed_engine
from tests.unit.planning.test_memory import TRAINER, architecture, built
join(60.0)
hparams = {"learning_rate": 1e-4, "adam_beta2": 0.999, "weight_decay": 0.0, "max_grad_norm": 1.0}
rows = [([1] * 32, [2] * 96)] * 4
for zero in (1, 2, 3):
    trainer = replace(TRAINER, dtype="bfloat16", zero_stage=zero)
    engine = deepspeed_engine(built(architecture("qwen3")).bfloat16(), hparams, trainer)
    logprobs, _ = engine(pack(rows, "cpu"), 1.0)
    engine.backward(logprobs.sum())
    apply_update(engine)
    optimizer = engine.optimizer
    name = "fp32_partitioned_groups_flat" if zero == 3 else "single_partition_of_fp32_groups"
    masters = getattr(optimizer, name)
    states = [t for state in optimizer.optimizer.state.values() for t in state.values()]
    moments = [t for t in states if torch.is_tensor(t) and t.dim()]
    parts = {"master weights": masters, "optimizer moments": moments}
    print("FOUND", json.dumps({name: sum(t.nbytes for t in tensors) for name, tensors in parts.items()}))
"""


def test_master_weights_and_moments_are_those_of_real_engines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENGINE], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [
        json.loads(line.removeprefix("FOUND"))
        for line in done.stdout.splitlines()
        if line.startswith("FOUND")
    ]
    for zero, sizes in zip((1, 2, 3), found, strict=True):
        planned = gpu.states(stage(dtype="bfloat16", zero_stage=zero))
        assert sizes == {
            name: pytest.approx(planned[name], rel=0.01) for name in sizes
        }  # padded to DeepSpeed's alignment


# --- phases, problems, remedies ---


def test_vllm_is_awake_while_it_generates_and_takes_weights() -> None:
    found = phases(stage())
    pool = 0.4 * 80 * GIB
    assert [name for name, parts in found.items() if parts.get("KV cache or vLLM pool") == pool] == [
        "generation",
        "hand-over",
    ]


def test_graphs_are_in_the_pool_of_an_engine_that_is_awake_and_stay_while_it_sleeps() -> None:
    def engine(processes: int = 1, **changes: Any) -> MemoryModel:
        given = {"gpu_memory_utilization": 0.4, "tensor_parallel": 1, "max_model_len": None, **changes}
        return stage(processes=processes, rollout=given)

    awake = {"KV cache or vLLM pool": 32.0 * GIB}
    for here, of_awake, of_asleep in (
        (engine(), 1.5, 2.5),
        (engine(enforce_eager=True), 1.5, 1.5),
        (engine(2), 2.5, 3.5),
        (engine(2, tensor_parallel=2), 3.5, 4.5),
    ):
        assert gpu.reserve(here, awake) == of_awake * GIB
        assert gpu.reserve(here, {}) == of_asleep * GIB
    for ways in (1, 2):
        rows = [
            gpu.cached_rows(engine(2, tensor_parallel=ways, enforce_eager=eager)) for eager in (False, True)
        ]
        of_a_row = (32 + 96) * engine().architecture.cache_bytes(4) / ways
        assert rows[0] and rows[1]
        assert (rows[1] - rows[0]) * of_a_row == pytest.approx(GIB)


def test_servers_elsewhere_take_nothing_here() -> None:
    found = phases(stage(rollout={"urls": ["http://localhost:8000"]}))
    assert "KV cache or vLLM pool" not in found["generation"]


def test_the_plain_engine_holds_a_cache_for_every_row() -> None:
    a = architecture("qwen3")
    found = gpu.sampling(stage(a, rollout={"max_rows": 64}))
    assert found["KV cache or vLLM pool"] == 64 * 128 * 2 * 6 * 2 * 32 * 4 + 16 * 64 * 96


def test_what_does_not_fit_is_said_with_what_would_help() -> None:
    config = plan("model=qwen3_4b", "hardware=one_80gb", "trainer.offload_optimizer=false")
    here, _ = stages_of(config)
    name, needed = worst_phase(here)
    assert needed > 79.1 * GIB
    assert problems(here)[0].startswith(f"{name} needs")
    fitting = [text for text in remedies(here) if text.endswith("which fits")]
    assert any("trainer.offload_optimizer=true" in text for text in fitting)
    assert any("trainer.lora" in text for text in fitting)


def test_a_pool_without_room_for_one_completion_is_a_problem() -> None:
    here, _ = stages_of(plan("model=qwen3_8b", "hardware=one_80gb", "rollout.gpu_memory_utilization=0.2"))
    assert any("rollout.gpu_memory_utilization=0.2" in text for text in problems(here))
    here, _ = stages_of(plan("model=qwen3_8b", "hardware=one_80gb", "rollout.max_model_len=1024"))
    assert any("rollout.max_model_len=1024" in text for text in problems(here))


def test_the_worst_of_the_catalogue_is_planned_too() -> None:
    _, worst = stages_of(plan("model=qwen3_1_7b", "hardware=one_80gb"))
    assert {
        key: worst.values[key] for key in ("max_completion_length", "group_size", "kl_coef", "reference")
    } == {
        "max_completion_length": 8192,
        "group_size": 32,
        "kl_coef": 0.2,
        "reference": "parent",
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("model", MODELS)
def test_every_profile_fits_with_room_to_spare(model: str, profile: str) -> None:
    config = plan(f"model={model}", f"hardware={profile}")
    for here in stages_of(config):
        assert problems(here) == []
        assert worst_phase(here)[1] < 0.92 * 79.1 * GIB
        limit = config.hardware["host_memory_gib"]
        enough = (model, profile) != ("qwen3_8b", "one_80gb")  # its file says how much main memory it wants
        assert (host_problems(here, limit) == []) == enough
        assert max(total(parts) for parts in host(here).values()) < 270 * GIB


@pytest.mark.parametrize("name", ["train", "search", "evaluate", "replay"])
def test_a_profile_sets_trainer_and_rollout_and_the_command_line_wins(name: str) -> None:
    given = [
        "model=qwen3_8b",
        "hardware=eight_80gb",
        *(["strategy=a.yaml", "search_dir=runs/a"] if name == "replay" else []),
    ]
    config = composed(*given, "trainer.micro_batch_tokens=2048", name=name)
    checked(LAUNCHERS[name], config)
    profile = config["model"]["profiles"]["eight_80gb"]
    assert config["trainer"]["micro_batch_tokens"] == 2048
    assert {key: config["trainer"][key] for key in ("dtype", "zero_stage", "activation_checkpointing")} == {
        "dtype": "bfloat16",
        "zero_stage": 3,
        "activation_checkpointing": True,
    }
    assert config["rollout"]["gpu_memory_utilization"] == profile["gpu_memory_utilization"]
    assert config["hardware"]["gpus_per_stage"] == config["trainer"]["gpus"] == 8


@pytest.mark.parametrize("rollout", ["torch", "vllm", "vllm_server"])
def test_a_machine_goes_with_any_sampler_and_with_models_without_profiles(rollout: str) -> None:
    server = ["rollout.urls=[http://one:8000]"] if rollout == "vllm_server" else []
    config = plan("model=nano", "hardware=one_80gb", f"rollout={rollout}", *server)
    assert config.trainer["dtype"] == "bfloat16"
    for here in stages_of(config):
        assert problems(here) == []


def planned(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "launchers/plan.py", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )


def test_the_launcher_prints_tables_and_json_and_says_by_its_status_whether_it_fits() -> None:
    fits = planned("model=qwen3_0_6b", "hardware=one_80gb")
    assert fits.returncode == 0, fits.stderr
    assert "optimizer moments" in fits.stdout
    assert "worst in bounds" in fits.stdout
    too_much = planned(
        "model=qwen3_8b",
        "hardware=one_80gb",
        "trainer.zero_stage=1",
        "trainer.offload_optimizer=false",
        "json=true",
    )
    assert too_much.returncode == 1, too_much.stderr
    found = json.loads(too_much.stdout)["worst in bounds"]
    assert not found["fits"]
    assert found["needed_gib"] > found["gpu_gib"]


def test_the_launcher_plans_the_nano_model_and_refuses_what_it_does_not_know() -> None:
    nano = planned("model=nano", "prompt_tokens=24")
    assert nano.returncode == 0, nano.stderr
    assert "856,320 parameters" in nano.stdout
    unknown = planned("model=hf", "model.path=some/model")
    assert unknown.returncode == 2
    assert "model.architecture: not given" in unknown.stderr


def test_planning_loads_no_deep_learning_library() -> None:
    code = (
        "import sys; sys.path.insert(0, 'launchers'); import plan; "
        "print([m for m in ('torch', 'transformers', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.strip() == "[]"
