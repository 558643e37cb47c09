"""Fixed sizes of the trainer that the memory planner counts with too; nothing here needs torch."""

from __future__ import annotations

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}  # of a weight
CHUNK_ELEMENTS = 2**25  # logits that the output head holds at once: 128 MiB in float32
COPIES = 4  # tokens attended to that cost as much as one token passed through the model
MIN_LENGTH_RATIO = 0.85  # shortest by longest of the completions that are padded to one length
SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")  # of the nano model's tokenizer, before its characters
