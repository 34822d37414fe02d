"""A Hub on 127.0.0.1, of the standard library alone: repositories in memory, and the ways in which a Hub refuses.

The client reads its endpoint when it is imported, so it runs in another process: `environment` is that process's.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "secret" * 6


@dataclass
class Repository:
    """Files at the head, how it refuses, and what was committed: (message, whether as a pull request, head before)."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    readonly: bool = False
    failing: int | None = None  # the status of a commit; 0 hangs up in the middle
    commits: list[tuple[str, bool, str]] = field(default_factory=list)
    proposed: dict[str, bytes] = field(default_factory=dict)  # what the last pull request holds
    number: int = field(default_factory=itertools.count().__next__)  # so that no two have a commit in common

    @property
    def head(self) -> str:
        content = [f"{name}:{hashlib.sha1(data).hexdigest()}" for name, data in sorted(self.files.items())]
        return hashlib.sha1("\n".join([*content, str(len(self.commits)), str(self.number)]).encode()).hexdigest()


@dataclass
class Loopback:
    """The Hub: repositories by kind and id, such as "models/org/name", and what was asked of it."""

    port: int = 0
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in {"HF_TOKEN", "HF_HUB_OFFLINE"}}
        kept |= {"HF_ENDPOINT": self.url.rstrip("/"), "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        return kept if token is None else {**kept, "HF_TOKEN": token}


CLIENT = """
import json, os, sys
from typer.testing import CliRunner
from hf_mia.cli.main import app
from hf_mia.publish.hub import fetch_run

for line in sys.stdin:
    asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if asked["token"] is not None:
        os.environ["HF_TOKEN"] = asked["token"]
    if "fetch" in asked:
        try:
            answer = 0, str(fetch_run(*asked["fetch"])), ""
        except (OSError, ValueError) as error:
            answer = 1, "", f"{type(error).__name__}: {error}"
    else:
        done = CliRunner().invoke(app, asked["arguments"])
        answer = done.exit_code, done.stdout, done.stderr + (repr(done.exception) if done.exit_code == 1 else "")
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, eq=False)
class Client:
    """A process whose Hub is a loopback: it takes one command after the other, so its libraries load once."""

    process: subprocess.Popen[str]

    def call(self, *arguments: object, token: str | None = TOKEN) -> Answer:
        """The command line, as `hf-mia ARGUMENTS`."""
        return self._ask({"arguments": [str(argument) for argument in arguments], "token": token})

    def fetch(self, repo_id: str, revision: str | None = None) -> Answer:
        """`fetch_run`: the folder on stdout, or the error's kind and message on stderr."""
        return self._ask({"fetch": [repo_id, revision], "token": TOKEN})

    def _ask(self, asked: dict[str, object]) -> Answer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Answer(*json.loads(self.process.stdout.readline()))


@contextmanager
def client(hub: Loopback, home: Path) -> Iterator[Client]:
    """A client of a loopback until the block ends; what its libraries log goes to `home`/log."""
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env=hub.environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield Client(process)
        finally:
            process.kill()
            process.communicate()


@contextmanager
def loopback() -> Iterator[Loopback]:
    """A Hub that listens on a free port until the block ends."""
    hub = Loopback()

    class Handler(_Handler):
        loop = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    loop: Loopback
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        if path[:1] == ["api"]:
            self._about(path)
        else:
            kind, path = (path[0], path[1:]) if path[0] == "datasets" else ("models", path)
            self._resolve(f"{kind}/{path[0]}/{path[1]}", "/".join(path[4:]))

    def do_POST(self) -> None:
        path, body = self._path(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif path == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif (repository := self._repository("/".join(path[1:4]))) is not None:
            if path[4] == "preupload":
                files = json.loads(body)["files"]
                self._json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            else:
                self._commit(repository, "/".join(path[2:4]), body)

    def _path(self) -> list[str]:
        self.loop.requests.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _repository(self, name: str) -> Repository | None:
        found = self.loop.repositories.get(name)
        if found is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        return found

    def _about(self, path: list[str]) -> None:
        repository = self._repository("/".join(path[1:4]))
        if repository is None:
            return
        if path[4:5] == ["revision"] and path[5] not in {"main", repository.head}:
            self._refuse(404, "RevisionNotFound", "Revision not found")
        elif path[4:5] == ["tree"]:
            rows = [{"type": "file", "path": n, "size": len(d), "oid": _oid(d)} for n, d in repository.files.items()]
            self._json(rows)
        else:
            siblings = [{"rfilename": name} for name in repository.files]
            about = {"id": "/".join(path[2:4]), "sha": repository.head, "private": repository.private}
            self._json({**about, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _resolve(self, name: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if repository.gated:
            self._refuse(403, "GatedRepo", "Access is restricted")
        elif file not in repository.files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repository.head})
        else:
            content = repository.files[file]
            headers = {"X-Repo-Commit": repository.head, "ETag": f'"{_oid(content)}"'}
            self._send(200, content, headers)

    def _create(self, asked: dict[str, str]) -> None:
        name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        if name in self.loop.repositories:
            self._send(409, json.dumps({"error": "already there", "url": self.loop.url + name}).encode(), {})
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.loop.repositories[name] = Repository(private=private)
            self._json({"url": self.loop.url + name})

    def _commit(self, repository: Repository, repo_id: str, body: bytes) -> None:
        if repository.readonly:
            self._refuse(403, "", "Forbidden: you need write access")
            return
        if repository.failing is not None:
            if repository.failing:
                self._refuse(repository.failing, "", f"out of order, {self.headers['authorization']}")
            else:
                self.close_connection = True  # nothing more is said
                self.connection.close()
            return
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", repository.head) != repository.head:
            self._refuse(412, "", "A commit has happened since")
            return
        proposed = "create_pr" in parse_qs(urlsplit(self.path).query)
        files = dict(repository.files)
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        repository.commits.append((header["summary"], proposed, repository.head))
        if proposed:
            repository.proposed = files
        else:
            repository.files = files
        url = self.loop.url + repo_id
        told = {"commitUrl": f"{url}/commit/{repository.head}", "commitOid": repository.head, "success": True}
        self._json({**told, "pullRequestUrl": f"{url}/discussions/1"} if proposed else told)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        given = {**({"X-Error-Code": code} if code else {}), "X-Error-Message": message, **(headers or {})}
        self._send(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **given})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
