"""A Hub on 127.0.0.1 of the standard library alone: repositories in memory, and the ways in which a Hub refuses.

The libraries read `HF_ENDPOINT` when they are imported, so they run in a process of their own: `python` runs a program
that meets this Hub and no other, `client` one that takes one command of `hf-mia` after the other.
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
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

ROOT = Path(__file__).parents[1]
DATE = "2026-01-01T00:00:00.000Z"
TOKEN = "hf_" + "secret" * 6
Files = dict[str, bytes]


@dataclass
class Repository:
    """Files at the head, how it refuses, and what was committed: (message, whether as a pull request, head before)."""

    files: Files = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    readonly: bool = False
    failing: int | None = None  # the status of a commit; 0 hangs up in the middle
    commits: list[tuple[str, bool, str]] = field(default_factory=list)
    proposed: Files = field(default_factory=dict)  # what the last pull request holds
    number: int = field(default_factory=itertools.count().__next__)  # so that no two have a commit in common

    @property
    def head(self) -> str:
        content = [f"{name}:{oid(data)}" for name, data in sorted(self.files.items())]
        return hashlib.sha1("\n".join([*content, str(len(self.commits)), str(self.number)]).encode()).hexdigest()


@dataclass
class Hub:
    """Repositories by kind and id, such as "spaces/org/name", and the requests in the order in which they came."""

    port: int = 0
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    large: Files = field(default_factory=dict)  # what was uploaded by LFS, by its SHA-256

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def add(self, name: str, folder: Path) -> None:
        """A repository with all files of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        self.repositories[name] = Repository({p.relative_to(folder).as_posix(): p.read_bytes() for p in paths})

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """That of a process whose Hub this is."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        kept |= {"HF_ENDPOINT": self.url.rstrip("/"), "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
        kept |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        return kept if token is None else {**kept, "HF_TOKEN": token}

    def python(self, code: str, home: Path, **environment: str) -> str:
        """What a program prints that meets this Hub and no other; it fails where the program does."""
        command, kept = [sys.executable, "-c", code], {**self.environment(home), **environment}
        done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=240, check=False, cwd=home)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that listens on a free port until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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
    """A process that takes one command after the other, so its libraries load once."""

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
def client(hub: Hub, home: Path) -> Iterator[Client]:
    """A client of a Hub until the block ends; what its libraries log goes to `home`/log."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (home / "log").open("w") as log:
        command = [sys.executable, "-c", CLIENT]
        process = subprocess.Popen(command, env=hub.environment(home), stderr=log, **pipes)  # type: ignore[call-overload]
        try:
            yield Client(process)
        finally:
            process.kill()
            process.communicate()


def oid(content: bytes) -> str:
    """Git's own name for a file, which the Hub gives as its ETag."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a test reads `requests`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match self._parts():
            case ["api", "whoami-v2"]:
                self._json({"name": "org", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})
            case ["api", kind, owner, name, *rest]:
                if (repository := self._repository(f"{kind}/{owner}/{name}")) is not None:
                    self._about(repository, f"{owner}/{name}", rest)
            case ["datasets" | "spaces" as kind, owner, name, "resolve", revision, *path]:
                self._file(f"{kind}/{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                self._file(f"models/{owner}/{name}", revision, "/".join(path))
            case _:
                self._refuse(404, "EntryNotFound", "there is nothing here")

    def do_POST(self) -> None:
        parts, body = self._parts(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[-4:] == ["info", "lfs", "objects", "batch"]:
            rows = json.loads(body)["objects"]
            given = [{**row, "actions": {"upload": {"href": f"{self.hub.url}large/{row['oid']}"}}} for row in rows]
            self._json({"transfer": "basic", "objects": given})
        elif (repository := self._repository("/".join(parts[1:4]))) is not None:
            self._change(repository, "/".join(parts[1:4]), parts[4], body)

    def do_PUT(self) -> None:
        self.hub.large[self._parts()[-1]] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._json({})

    def _parts(self) -> list[str]:
        self.hub.requests.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        return found

    def _create(self, asked: dict[str, str]) -> None:
        kind = asked.get("type") or "model"
        name = f"{asked.get('organization') or 'org'}/{asked['name']}"
        url = self.hub.url + (name if kind == "model" else f"{kind}s/{name}")
        if f"{kind}s/{name}" in self.hub.repositories:
            self._send(409, json.dumps({"error": "already there", "url": url}).encode(), {})
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[f"{kind}s/{name}"] = Repository(private=private)
            self._json({"url": url})

    def _about(self, repository: Repository, name: str, rest: list[str]) -> None:
        if rest and rest[1] not in {"main", repository.head}:
            self._refuse(404, "RevisionNotFound", "there is no such revision")
        elif rest[:1] == ["tree"]:
            asked = dict(parse_qsl(urlsplit(self.path).query))
            rows = _tree(repository, "/".join(rest[2:]), asked.get("recursive", "").lower() in {"true", "1"})
            if rows or not rest[2:]:
                self._json(rows)
            else:
                self._refuse(404, "EntryNotFound", "there is no such folder")
        else:
            siblings = [{"rfilename": path} for path in sorted(repository.files)]
            about = {"id": name, "sha": repository.head, "private": repository.private, "tags": [], "downloads": 0}
            self._json({**about, "likes": 0, "lastModified": DATE, "siblings": siblings})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        files, head = repository.files, repository.head
        if repository.gated:
            self._refuse(403, "GatedRepo", "Access is restricted")
        elif revision not in {"main", head}:
            self._refuse(404, "RevisionNotFound", "there is no such revision")
        elif path not in files:
            self._refuse(404, "EntryNotFound", "there is no such file", {"X-Repo-Commit": head})
        else:
            known = {"ETag": f'"{oid(files[path])}"', "X-Repo-Commit": head, "Accept-Ranges": "bytes"}
            start, end = 0, len(files[path])
            if given := self.headers.get("Range"):
                first, last = given.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1 if last else end, end)
                known["Content-Range"] = f"bytes {start}-{end - 1}/{len(files[path])}"
            self._send(206 if given else 200, files[path][start:end], known)

    def _change(self, repository: Repository, name: str, what: str, body: bytes) -> None:
        if what == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if path.endswith(".parquet") else "regular" for path in paths]
            rows = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in zip(paths, modes, strict=True)]
            self._json({"files": rows})
        elif what == "paths-info":
            wanted = {path for key, path in parse_qsl(body.decode()) if key == "paths"}
            self._json([row for row in _tree(repository, "", True) if row["path"] in wanted])
        elif repository.readonly:
            self._refuse(403, "", "Forbidden: you need write access")
        elif repository.failing:
            self._refuse(repository.failing, "", f"out of order, {self.headers['authorization']}")
        elif repository.failing == 0:
            self.close_connection = True  # nothing more is said
            self.connection.close()
        else:
            self._commit(repository, name, [json.loads(line) for line in body.splitlines()])

    def _commit(self, repository: Repository, name: str, lines: list[dict[str, dict[str, str]]]) -> None:
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", repository.head) != repository.head:
            self._refuse(412, "", "A commit has happened since")
            return
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        proposed = "create_pr" in parse_qs(urlsplit(self.path).query)
        repository.commits.append((header["summary"], proposed, repository.head))
        if proposed:
            repository.proposed = files
        else:
            repository.files = files
        url = self.hub.url + name.removeprefix("models/")
        told = {"commitUrl": f"{url}/commit/{repository.head}", "commitOid": repository.head, "success": True}
        self._json({**told, "pullRequestUrl": f"{url}/discussions/1"} if proposed else told)

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        said = {**({"X-Error-Code": code} if code else {}), "X-Error-Message": message, **(headers or {})}
        self._send(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **said})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(repository: Repository, under: str, recursive: bool) -> list[dict[str, object]]:
    """Files and folders below a folder, as the Hub lists them."""
    prefix = f"{under}/" if under else ""
    inside = {path: content for path, content in repository.files.items() if path.startswith(prefix)}
    commit = {"id": repository.head, "title": "commit", "date": DATE}
    folders = {parent.as_posix() for path in inside for parent in Path(path).parents if parent.name}
    rows = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
    rows += [{"type": "file", "path": path, "size": len(c), "oid": oid(c)} for path, c in sorted(inside.items())]
    kept = [row for row in rows if str(row["path"]).startswith(prefix)]
    return [{**row, "lastCommit": commit} for row in kept if recursive or "/" not in str(row["path"])[len(prefix) :]]
