"""Runs several stages one after another, with one import: `torchrun ... run_stages.py DIRECTORY...`."""

from __future__ import annotations

import sys

from llmzero.grpo.main import run_stage

for directory in sys.argv[1:]:
    print(directory, run_stage(directory), flush=True)
