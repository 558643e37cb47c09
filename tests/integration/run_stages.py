"""Runs the stages of several directories one after another: `torchrun ... run_stages.py DIRECTORY...`; one import for all of them."""

from __future__ import annotations

import sys

from llmzero.grpo.main import run_stage

for directory in sys.argv[1:]:
    print(directory, run_stage(directory), flush=True)
