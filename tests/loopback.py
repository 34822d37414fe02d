"""A Hub on 127.0.0.1, of the standard library alone: repositories in memory, and the ways in which a Hub refuses.

The client reads its endpoint when it is imported, so it runs in another process: `environment` is that process's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
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

    @property
    def head(self) -> str:
        content = [f"{name}:{hashlib.sha1(data).hexdigest()}" for name, data in sorted(self.files.items())]
        return hashlib.sha1("\n".join([*content, str(len(self.commits))]).encode()).hexdigest()


@dataclass
class Loopback:
    """The Hub: repositories by kind and id, such as "models/org/name", and what was asked of it."""

    port: int = 0
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in {"HF_TOKEN", "HF_HUB_OFFLINE"}}
        kept |= {"HF_ENDPOINT": f"http://127.0.0.1:{self.port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        return kept if token is None else {**kept, "HF_TOKEN": token}


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
            self._refuse(409, "", "You already created this repository")
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.loop.repositories[name] = Repository(private=private)
            self._json({"url": f"http://127.0.0.1:{self.loop.port}/{name}"})

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
        url = f"http://127.0.0.1:{self.loop.port}/{repo_id}"
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
