"""A dense decoder's architecture: how many parameters it has, and what it keeps of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmzero.core.errors import UserError
from llmzero.grpo.settings import ArchitectureSettings, LoraSettings

FAMILIES = ("llama", "qwen2", "qwen3")
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
LARGEST = 2**24  # of a size; vocabularies have less than 2**20


@dataclass
class Architecture(ArchitectureSettings):
    """A dense decoder, in the words of its Hugging Face config.json."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = "model.architecture.") -> Architecture:
        """Return the architecture that a config.json, or `model.architecture`, describes.

        Args:
            config: keys and values, which may be anything.
            where: what stands before a key in messages, with a dot or a colon at its end.

        Raises:
            UserError: it is of a family that the formulas do not hold for, or a value is missing or wrong.
        """
        if config.get("model_type") not in FAMILIES:
            raise UserError(
                f"{where}model_type={config.get('model_type')!s:.100}: must be one of {', '.join(FAMILIES)}"
            )
        derived = {"num_key_value_heads", "head_dim", *FLAGS}
        values: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__}
        if missing := [name for name, value in values.items() if value is None and name not in derived]:
            raise UserError(
                f"{where[:-1]}: {', '.join(missing)} missing; give what the model's config.json says"
            )
        for name, value in values.items():
            if problem := _problem(name, value):
                raise UserError(f"{where}{name}={value!r:.100}: must be {problem}")
        values["num_key_value_heads"] = values["num_key_value_heads"] or values["num_attention_heads"]
        values["head_dim"] = values["head_dim"] or max(
            1, values["hidden_size"] // values["num_attention_heads"]
        )
        return cls(**{**values, **{name: bool(values[name]) for name in FLAGS}})

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all key heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear modules, by name."""
        d, q, k, i = self.hidden_size, self.query_width, self.key_width, self.intermediate_size
        attention = {"q_proj": (d, q), "k_proj": (d, k), "v_proj": (d, k), "o_proj": (q, d)}
        return {**attention, "gate_proj": (d, i), "up_proj": (d, i), "down_proj": (i, d)}

    @property
    def _biased(self) -> tuple[str, ...]:
        """Names of the linear modules that have a bias."""
        if self.model_type == "qwen2":
            return ("q_proj", "k_proj", "v_proj")
        attention = ("q_proj", "k_proj", "v_proj", "o_proj") if self.attention_bias else ()
        mlp = ("gate_proj", "up_proj", "down_proj")
        return (*attention, *mlp) if self.mlp_bias and self.model_type == "llama" else attention

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, the largest tensor of all."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Parameters of the model; tied ones count once."""
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.model_type == "qwen3" else 0)
        weights = sum(inputs * outputs for inputs, outputs in self.linears.values())
        layer = weights + norms + sum(self.linears[name][1] for name in self._biased)
        return (
            self.num_hidden_layers * layer
            + self.embedding * (1 if self.tie_word_embeddings else 2)
            + self.hidden_size
        )

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Parameters of a LoRA adapter.

        Raises:
            UserError: it has a target that the model has not.
        """
        names = list(self.linears) if lora.targets == "all-linear" else lora.targets
        if isinstance(names, str) or not set(names) <= set(self.linears):
            raise UserError(
                f"trainer.lora.targets={lora.targets}: "
                f"must be all-linear, or a list of some of {', '.join(self.linears)}"
            )
        return self.num_hidden_layers * (lora.rank or 0) * sum(sum(self.linears[name]) for name in names)

    def cache_bytes(self, size: int) -> int:
        """Bytes of one token in the key-value cache, `size` bytes an element."""
        return 2 * self.num_hidden_layers * self.key_width * size

    def saved_bytes(self, size: int) -> int:
        """Bytes that one layer keeps of one token for its backward pass, besides what completions attend to.

        Norms keep their input and a float32 number a row, those before linear modules their output too.
        Attention keeps queries, its output, that again in the order of the row, a float32 sum a head, and all
        keys and values, because prompts' are views of these. The MLP keeps gate, up and their product.
        """
        d, q, k = self.hidden_size, self.query_width, self.key_width
        norms = 2 * (2 * size * d + 4) + (
            (q + k) * size + 4 * (q + k) // self.head_dim if self.model_type == "qwen3" else 0
        )
        attention = size * (3 * q + 2 * k) + 4 * self.num_attention_heads
        return norms + attention + 3 * size * self.intermediate_size


def _problem(name: str, value: Any) -> str | None:
    """Return what a value of a config.json has to be; None where it is that, or is left out."""
    if value is None or name == "model_type":
        return None
    if name in FLAGS:
        return None if isinstance(value, bool) else "true or false"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return None if whole and 0 < value <= LARGEST else f"a whole number from 1 to {LARGEST}"
