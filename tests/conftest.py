from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import metric_catalogue

REPOSITORY = Path(__file__).resolve().parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def entries() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "conf/hparams/grpo.yaml").read_text())["parameters"]
    return found


@pytest.fixture(scope="session")
def catalogue(entries: dict[str, Any]) -> Catalogue:
    nano = yaml.safe_load((REPOSITORY / "conf/model/nano.yaml").read_text())["hparams"]
    return Catalogue.from_config(entries, {"model": nano})


@pytest.fixture(scope="session")
def metrics() -> Any:
    return metric_catalogue(yaml.safe_load((REPOSITORY / "conf/metrics.yaml").read_text())["metrics"])
