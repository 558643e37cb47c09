"""Reads an offline W&B run: a LevelDB log (32 KiB blocks of checksummed fragments) of protobuf records."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER = struct.Struct("<4sHB")  # ":W&B", magic, version
FRAGMENT_HEADER = struct.Struct("<IHB")  # crc32 of type and body, length, type
BLOCK_BYTES = 32 * 1024
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """One run, as W&B would be told of it."""

    run_id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)  # metric name or glob -> metric of its x axis
    artifacts: dict[str, dict[str, Path]] = field(
        default_factory=dict
    )  # type -> name of a file -> where its bytes are
    fork: tuple[str, float] | None = None  # run and step that it was forked from
    exit_code: int | None = None


def read_runs(search_dir: Path) -> dict[str, OfflineRun]:
    """Return the offline runs of a search directory by name; two recordings of one run are an error."""
    runs = [read_run(file) for file in sorted(search_dir.glob("wandb/offline-run-*/run-*.wandb"))]
    assert len({run.run_id for run in runs}) == len(runs), (
        f"a run was recorded twice: {sorted(run.run_id for run in runs)}"
    )
    return {run.name: run for run in runs}


def read_run(file: Path) -> OfflineRun:
    run = OfflineRun()
    for body in _bodies(file.read_bytes()):
        record = Record.FromString(body)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.name, run.project = record.run.run_id, record.run.display_name, record.run.project
            run.group, run.job_type, run.tags = (
                record.run.run_group,
                record.run.job_type,
                list(record.run.tags),
            )
            run.config |= _values(record.run.config.update)
            if record.run.HasField("branch_point"):
                run.fork = (record.run.branch_point.run, record.run.branch_point.value)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "metric":
            run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts[record.artifact.type] = {
                entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents
            }
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _bodies(data: bytes) -> Iterator[bytes]:
    """Put the fragments of each record together again."""
    assert FILE_HEADER.unpack_from(data)[0] == b":W&B"
    position, body = FILE_HEADER.size, b""
    while position + FRAGMENT_HEADER.size <= len(data):
        room = BLOCK_BYTES - position % BLOCK_BYTES
        checksum, length, kind = FRAGMENT_HEADER.unpack_from(data, position)
        if room < FRAGMENT_HEADER.size or kind == 0:  # the rest of a block that was too short for a fragment
            position += room
            continue
        position += FRAGMENT_HEADER.size
        fragment = data[position : position + length]
        assert zlib.crc32(bytes([kind]) + fragment) == checksum
        position += length
        body = fragment if kind in (FULL, FIRST) else body + fragment
        if kind in (FULL, LAST):
            yield body


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
