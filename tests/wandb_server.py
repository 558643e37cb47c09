"""A local server of the W&B protocol: it records what the real client sends, for the public API to read.

It knows the operations that runs, files, artifacts and reports need; any other is answered with an error, as
by an older server. It draws nothing and knows no users, so it says nothing about W&B's pages and permissions.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

ENTITY = "lab"
STREAM = re.compile(r"/files/[^/]+/[^/]+/([^/]+)/file_stream")
OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


@dataclass
class Run:
    """A run as the server was told of it."""

    run_id: str
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)  # by line
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    begun: int = 0  # how often a client began it

    @property
    def values(self) -> dict[str, Any]:
        """The configuration that its user gave."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    @property
    def branch_point(self) -> dict[str, Any] | None:
        """The run and the step that it was forked from."""
        point: dict[str, Any] | None = self.config.get("_wandb", {}).get("value", {}).get("branch_point")
        return point

    def node(self) -> dict[str, Any]:
        """Return it as the public API asks for it."""
        known = {
            "id": self.run_id,
            "name": self.run_id,
            "displayName": self.name,
            "group": self.group,
            "jobType": self.job_type,
            "tags": self.tags,
        }
        empty = dict.fromkeys(("sweepName", "commit", "description", "notes", "systemMetrics"))
        times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00Z")
        config, summary = json.dumps(self.config), json.dumps(self.summary)
        user = {"name": ENTITY, "username": ENTITY}
        rest = {
            "state": "finished",
            "readOnly": False,
            "projectId": 1,
            "historyLineCount": len(self.history),
            "user": user,
            "historyKeys": None,
        }
        return known | empty | times | rest | {"config": config, "summaryMetrics": summary}


class WandbServer(ThreadingHTTPServer):
    """Records on loopback.

    Attributes:
        forks: whether a run may be a fork; refused where not.
        files: what was put into the storage, by `<run or artifact id>/<name>`.
        artifacts: what `CreateArtifact` said, and `state`, by id.
        reports: what `upsertView` said.
        unknown: operations that were asked for and are not known.
    """

    daemon_threads = True

    def __init__(self, *, forks: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.forks = forks
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.runs: dict[str, Run] = {}
        self.files: dict[str, bytes] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.reports: list[dict[str, Any]] = []
        self.unknown: list[str] = []

    @property
    def url(self) -> str:
        """What `WANDB_BASE_URL` has to be."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that is gone: ours ends with its connections open."""
        if not isinstance(sys.exception(), ConnectionResetError):
            super().handle_error(request, client_address)

    def file_url(self, owner: str, name: str) -> str:
        """Return where a file is put and taken from."""
        return f"{self.url}/storage/{owner}/{name}"

    def artifact(self, kind: str) -> dict[str, bytes]:
        """Return the files of the newest committed artifact of a type, by their names."""
        found = [
            name
            for name, artifact in self.artifacts.items()
            if artifact["artifactTypeName"] == kind and artifact["state"] == "COMMITTED"
        ]
        return {
            name.partition("/")[2]: data
            for name, data in self.files.items()
            if name.startswith(f"{found[-1]}/")
        }

    def stream(self, run_id: str, message: dict[str, Any]) -> None:
        """Take a batch of lines of a run's files."""
        run = self.runs[run_id]
        with self.lock:
            for name, part in (message.get("files") or {}).items():
                lines = (
                    [json.loads(line) for line in part["content"]]
                    if name.endswith((".json", "history.jsonl"))
                    else []
                )
                if name == "wandb-history.jsonl":
                    run.history |= dict(enumerate(lines, part.get("offset", 0)))
                elif name == "wandb-summary.json":
                    run.summary = lines[-1]
            if message.get("complete"):
                run.exit_code = message["exitcode"]

    def answer(self, operation: str, values: dict[str, Any]) -> dict[str, Any] | None:
        """Return the data of a GraphQL operation; None where it is not known."""
        handler = getattr(self, f"_on_{operation}", None)
        if handler is None:
            self.unknown.append(operation)
            return None
        data: dict[str, Any] = handler(values)
        return data

    def _on_Viewer(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 the protocol's names, here and below
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": teams}}

    def _on_GetDefaultEntity(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._on_Viewer(values)

    def _on_ServerFeaturesQuery(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"entity": {"organization": None}}

    def _on_UpsertBucket(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run_id, config = values["name"], json.loads(values.get("config") or "{}")
        if not self.forks and Run(run_id, config=config).branch_point:
            raise ValueError("forks are not available")
        old = self.runs.get(run_id)
        run = self.runs[run_id] = (
            Run(run_id) if old is None or (config and old.exit_code is not None) else old
        )
        if run is not old:
            run.begun = 1 + (old.begun if old else 0)
        run.name, run.group = values.get("displayName") or run.name, values.get("groupName") or run.group
        run.job_type, run.project = (
            values.get("jobType") or run.job_type,
            values.get("project") or run.project,
        )
        run.tags, run.config = values.get("tags") or run.tags, run.config | config
        project = {"id": "1", "name": run.project, "entity": {"id": "1", "name": ENTITY}}
        bucket = {
            "id": run_id,
            "name": run_id,
            "displayName": run.name,
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
        }
        return {
            "upsertBucket": {
                "bucket": {**bucket, "historyLineCount": 0, "project": project},
                "inserted": old is None,
            }
        }

    def _on_RunResumeStatus(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {
            "model": {
                "id": "1",
                "name": values["project"],
                "entity": {"id": "1", "name": ENTITY},
                "bucket": None,
            }
        }

    def _on_CreateRunFiles(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": name, "uploadUrl": self.file_url(values["run"], name)} for name in values["files"]]
        return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}

    def _on_ArtifactType(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"artifact": None}}

    def _on_CreateArtifact(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact_id = f"artifact-{next(self.numbers)}"
        self.artifacts[artifact_id] = {**values["input"], "state": "PENDING"}
        return {
            "createArtifact": {
                "artifact": {
                    "id": artifact_id,
                    "state": "PENDING",
                    "artifactSequence": {"latestArtifact": None},
                }
            }
        }

    def _on_CreateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        file = self._artifact_file(values["artifactID"], "wandb_manifest.json")
        return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}

    def _on_CreateArtifactFiles(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [
            self._artifact_file(file["artifactID"], file["name"]) for file in values["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": file} for file in files]}}}

    def _artifact_file(self, artifact_id: str, name: str) -> dict[str, Any]:
        url = {
            "uploadUrl": self.file_url(artifact_id, name),
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
        }
        return {
            "id": f"{next(self.numbers)}",
            "name": name,
            "displayName": name,
            "storagePath": name,
            "artifact": {"id": artifact_id},
            **url,
        }

    def _on_CommitArtifact(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.artifacts[values["artifactID"]]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "digest"}}}

    def _on_Runs(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        nodes = [run.node() for run in self.runs.values() if run.project == values["project"]]
        wanted = json.loads(values["filters"])
        edges = [{"node": node, "cursor": node["id"]} for node in nodes if wanted.items() <= node.items()]
        page = {"endCursor": None, "hasNextPage": False}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(edges),
                "readOnly": False,
                "runs": {"edges": edges, "pageInfo": page},
            }
        }

    def _on_RunFiles(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run_id, names = values["name"], values["fileNames"]
        edges = [
            {"node": self._run_file(run_id, name), "cursor": name}
            for name in names
            if f"{run_id}/{name}" in self.files
        ]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(edges), "files": files}}}

    def _run_file(self, run_id: str, name: str) -> dict[str, Any]:
        url, size = self.file_url(run_id, name), len(self.files[f"{run_id}/{name}"])
        rest = {"mimetype": None, "updatedAt": None, "md5": None}
        return {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": size, **rest}

    def _on_GetProjects(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        rest = {"entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        edges = [
            {"node": {"__typename": "Project", "id": name, "name": name, **rest}}
            for name in {run.project for run in self.runs.values()}
        ]
        return {
            "models": {
                "edges": edges,
                "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
            }
        }

    def _on_upsertView(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.reports.append(values)
        told = {name: values[name] for name in ("type", "name", "displayName", "description", "spec")}
        project = {"id": "1", "name": values["projectName"], "entityName": values["entityName"]}
        return {
            "upsertView": {
                "view": {**told, "id": "1", "project": project, "updatedAt": "2026-01-01T00:00:00Z"},
                "inserted": True,
            }
        }


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        data = self.server.files.get(self._stored, None)
        self._send(data if data is not None else b"{}", 200 if data is not None else 404)

    def do_PUT(self) -> None:
        self.server.files[self._stored] = self._body()
        self._send(b"{}")

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            self._send(json.dumps(self._graphql(json.loads(body))).encode())
            return
        if stream := STREAM.fullmatch(self.path):
            self.server.stream(stream[1], json.loads(body))
        self._send(b"{}")

    @property
    def _stored(self) -> str:
        return unquote(urlparse(self.path).path).removeprefix("/storage/")

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        found = OPERATION.search(request["query"])
        operation = request.get("operationName") or (found[1] if found else "?")
        try:
            data = self.server.answer(operation, request.get("variables") or {})
        except ValueError as error:
            return {"data": None, "errors": [{"message": str(error)}]}
        return (
            {"data": data}
            if data is not None
            else {"data": None, "errors": [{"message": f"unknown operation {operation}"}]}
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b"".join(self._chunks())
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        encoding = self.headers.get("Content-Encoding")
        return (
            gzip.decompress(data)
            if encoding == "gzip"
            else zlib.decompress(data)
            if encoding == "deflate"
            else data
        )

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, data: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def wandb_server(*, forks: bool = True) -> Iterator[WandbServer]:
    """Run a server for as long as the context lasts."""
    with WandbServer(forks=forks) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
