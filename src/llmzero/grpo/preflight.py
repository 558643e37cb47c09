"""What can be known of a stage before its first step: each check takes files' contents, not a running stage,
and says what is wrong with file, value and remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedTokenizerBase

from llmzero.core.errors import UserError
from llmzero.grpo.policy import encode_prompts, end_tokens
from llmzero.tasks.base import Example, Task, rewards_of
from llmzero.tasks.splits import Split

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # what of a generation config is used
STRETCHED = ("linear", "dynamic", "yarn")  # rotary positions that reach `factor` times as far
EXTRA = 16  # tokens of a tokenizer's own, and more than any adds to a prompt


def foreseen(
    model: Any, tokenizer: PreTrainedTokenizerBase, task: Task, splits: Sequence[str], longest: int
) -> list[str]:
    """Return what to say of a model before it is trained on a task.

    Args:
        model: with or without its weights.
        tokenizer: the model's.
        task: what it is trained on.
        splits: those of the task that are read.
        longest: of its completions, in training or validation.

    Raises:
        UserError: something would fail, or go wrong, at a later step.
    """
    vocabulary, context = model.get_input_embeddings().num_embeddings, context_of(model.config)
    check_end_tokens(end_tokens(model, tokenizer), vocabulary, model.name_or_path)
    examples = [task.split(cast("Split", name)) for name in splits]
    check_tokenizes(tokenizer, examples[-1])
    for each in examples:
        check_vocabulary(tokenizer, each, vocabulary)
    problems = [check_prompts(tokenizer, each, longest, context) for each in examples]
    check_rewards(task, examples[-1][0])
    return [each for each in (*problems, prompt_end_problem(tokenizer, examples[-1][0])) if each]


def generation_problem(config: GenerationConfig) -> str | None:
    """Return why transformers would refuse to save a generation config; None where it would not."""
    try:
        config.validate(strict=True)
    except (ValueError, TypeError, AttributeError) as error:
        return (
            f"generation_config.json cannot be saved again ({' '.join(str(error).split())[:300]}); sampling "
            "does not read it, so checkpoints keep its special tokens alone"
        )
    return None


def special_tokens_of(config: GenerationConfig) -> GenerationConfig:
    """Return a generation config with nothing but the special tokens of another."""
    ids = {name: getattr(config, name) for name in TOKENS}
    negative = {name for name, value in ids.items() if isinstance(value, int) and value < 0}
    return GenerationConfig(**{name: None if name in negative else value for name, value in ids.items()})


def check_end_tokens(eos_ids: Sequence[int], vocabulary: int, where: str) -> None:
    """Check that a policy with so many tokens can end a completion.

    Raises:
        UserError: it has no end token, or none that it can emit; all its completions would be cut off.
    """
    if any(0 <= token < vocabulary for token in eos_ids):
        return
    problem = "no file names an end token"
    if eos_ids:
        problem = f"the end tokens {list(eos_ids)} are not among the model's {vocabulary} tokens"
    raise UserError(
        f"{where}: {problem}, so no completion could end; set eos_token_id in its generation_config.json, or "
        "eos_token in its tokenizer_config.json"
    )


def context_of(config: Any) -> int | None:
    """Return how many tokens a model was made for, by its transformers config; None where it does not say."""
    text = config.get_text_config()
    longest: int | None = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if longest and rope.get("rope_type") in STRETCHED and rope.get("factor"):
        return max(longest, int(rope.get("original_max_position_embeddings", longest) * rope["factor"]))
    return longest


def check_tokenizes(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> None:
    """Check that a tokenizer makes tokens of a text, and its chat template others of another; one whose files
    are missing makes none, and is silent.

    Raises:
        UserError: it makes none of the first example's prompt, or the same of different prompts.
    """
    if examples and not tokenizer.encode(examples[0].prompt, add_special_tokens=False):
        raise UserError(
            f"{tokenizer.name_or_path}: its tokenizer makes no token of the prompt {examples[0].id!r}; are "
            "tokenizer.json and tokenizer_config.json there? Copy them from where the model comes"
        )
    first = examples[0] if examples else None
    other = next((each for each in examples if first and each.prompt.split() != first.prompt.split()), None)
    if first and other and tokenizer.chat_template is not None:
        shown = encode_prompts(tokenizer, [first, other])
        if shown[0] == shown[1] and tokenizer.encode(first.prompt) != tokenizer.encode(other.prompt):
            raise UserError(
                f"{tokenizer.name_or_path}: its chat template makes the same {len(shown[0])} tokens of the "
                f"prompts {first.id!r} and {other.id!r}; repair it to show messages, or remove it"
            )


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], vocabulary: int
) -> None:
    """Check that prompts are made of the tokens that a model has.

    Raises:
        UserError: the tokenizer has more tokens, and a prompt one of them.
    """
    if max(tokenizer.get_vocab().values(), default=0) < vocabulary:
        return
    for example, ids in zip(examples, encode_prompts(tokenizer, examples), strict=True):
        if beyond := [token for token in ids if token >= vocabulary]:
            raise UserError(
                f"{tokenizer.name_or_path}: prompt {example.id!r} has "
                f"{tokenizer.convert_ids_to_tokens(beyond[0])!r}, token {beyond[0]}, but the "
                f"model has {vocabulary} tokens; give the tokenizer and the model of one checkpoint"
            )


def check_prompts(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    longest_completion: int,
    context: int | None,
) -> str | None:
    """Check that every prompt fits into a model's `context_of`; return what to say where the longest
    completion does not fit behind it.

    Raises:
        UserError: there are no examples, or a prompt leaves no room for a completion.
    """
    if not examples:
        raise UserError("task: a split that this stage reads has no examples; give it some")
    if context is None:
        return None
    room = context - longest_completion
    long = prompts_beyond(tokenizer, examples, room)
    name, longest = max(long, key=lambda pair: pair[1], default=("", 0))
    if longest >= context:
        count = sum(length >= context for _, length in long)
        raise UserError(
            f"task: the model was made for {context} tokens (max_position_embeddings), but prompt {name!r} "
            f"has {longest}; {count} of {len(examples)} prompts leave no room for a completion; leave them "
            "out, or choose a model with a longer context"
        )
    if long:
        return (
            f"was made for {context} tokens (max_position_embeddings), but prompts of up to {longest} and "
            f"completions of {longest_completion} (max_completion_length, trainer.validation_max_tokens) "
            f"need {longest + longest_completion}; what lies beyond is sampled and trained on all the same"
        )
    return None


def check_engine(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    longest_completion: int,
    limit: int | None,
) -> None:
    """Check that every prompt and the longest completion fit into an engine of `limit` tokens, which would
    refuse them at the step in which they come.

    Raises:
        UserError: some do not.
    """
    long = [] if limit is None else prompts_beyond(tokenizer, examples, limit - longest_completion)
    if long:
        name, longest = max(long, key=lambda pair: pair[1])
        raise UserError(
            f"rollout: the engine holds {limit} tokens, but prompt {name!r} of {longest} and "
            f"completions of {longest_completion} need {longest + longest_completion}; so it is with "
            f"{len(long)} of {len(examples)} prompts; raise rollout.max_model_len, or the servers' "
            "--max-model-len, as far as the model allows, or lower max_completion_length and "
            "trainer.validation_max_tokens"
        )


def prompts_beyond(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], room: int
) -> list[tuple[str, int]]:
    """Return id and tokens of the prompts of more than `room` tokens. Those with fewer bytes are not
    tokenized: a token has a byte or more.
    """
    shortest = min(examples, key=lambda example: len(example.prompt))
    around = len(encode_prompts(tokenizer, [shortest])[0]) + EXTRA  # a chat template's tokens, for one
    doubtful = [example for example in examples if len(example.prompt.encode()) + around > room]
    encoded = zip(doubtful, encode_prompts(tokenizer, doubtful), strict=True)
    return [(example.id, len(ids)) for example, ids in encoded if len(ids) > room]


def prompt_end_problem(tokenizer: PreTrainedTokenizerBase, example: Example) -> str | None:
    """Return what to say of a tokenizer, or a chat template, that ends prompts with the end token."""
    ids = encode_prompts(tokenizer, [example])[0]
    if tokenizer.chat_template is None:
        added = tokenizer.encode(example.prompt) != ids
        return "its tokenizer puts the end token behind every text; prompts go without it" if added else None
    if tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id]:
        return "its chat template ends prompts with the end token; the policy may take them for finished"
    return None


def check_rewards(task: Task, example: Example) -> None:
    """Check that a task rewards an empty completion with numbers.

    Raises:
        UserError: it does not, see `rewards_of`.
    """
    rewards_of(task, [example], [""])
