"""A Hub on 127.0.0.1 of the standard library alone: models, datasets and Spaces whose files are in memory.

The libraries read `HF_ENDPOINT` when they are imported, so they run in a process of their own, by `python`.
"""

from __future__ import annotations

import base64
import hashlib
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
from urllib.parse import parse_qsl, unquote, urlsplit

ROOT = Path(__file__).parents[1]
DATE = "2026-01-01T00:00:00.000Z"
Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories by kind and id, such as "spaces/org/name", and the requests in the order in which they came."""

    endpoint: str = ""
    repositories: dict[str, Files] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    large: Files = field(default_factory=dict)  # what was uploaded by LFS, by its SHA-256

    def add(self, name: str, folder: Path) -> None:
        """A repository with all files of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        self.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    def python(self, code: str, home: Path, **environment: str) -> str:
        """What a program prints that meets this Hub and no other; it fails where the program does."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        kept |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_loopback", "PYTHONPATH": str(ROOT)}
        kept |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", **environment}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=240, check=False, cwd=home)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that listens on a free port until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def oid(content: bytes) -> str:
    """Git's own name for a file, which the Hub gives as its ETag."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def head(files: Files) -> str:
    """The commit that holds these files: a digest of names and contents."""
    return hashlib.sha1(repr([(name, oid(files[name])) for name in sorted(files)]).encode()).hexdigest()


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
                self._about(kind, f"{owner}/{name}", rest)
            case ["datasets" | "spaces" as kind, owner, name, "resolve", revision, *path]:
                self._file(f"{kind}/{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                self._file(f"models/{owner}/{name}", revision, "/".join(path))
            case _:
                self._refuse("EntryNotFound", "there is nothing here")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self._parts():
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'org'}/{asked['name']}"
                kind = asked.get("type") or "model"
                self.hub.repositories.setdefault(f"{kind}s/{name}", {".gitattributes": b""})
                self._json({"url": "/".join([self.hub.endpoint, *([] if kind == "model" else [f"{kind}s"]), name])})
            case ["api", kind, owner, name, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = ["lfs" if path.endswith(".parquet") else "regular" for path in paths]
                rows = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in zip(paths, modes, strict=True)]
                self._json({"files": rows})
            case [*_, "info", "lfs", "objects", "batch"]:
                rows = json.loads(body)["objects"]
                actions = [{"upload": {"href": f"{self.hub.endpoint}/large/{row['oid']}"}} for row in rows]
                given = [{**row, "actions": action} for row, action in zip(rows, actions, strict=True)]
                self._json({"transfer": "basic", "objects": given})
            case ["api", kind, owner, name, "commit", _]:
                self._commit(f"{kind}/{owner}/{name}", body)
            case ["api", kind, owner, name, "paths-info", _]:
                files = self.hub.repositories[f"{kind}/{owner}/{name}"]
                wanted = {path for key, path in parse_qsl(body.decode()) if key == "paths"}
                self._json([row for row in _tree(files, "", True) if row["path"] in wanted])
            case _:
                self._refuse("EntryNotFound", "there is nothing here")

    def do_PUT(self) -> None:
        self.hub.large[self._parts()[-1]] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._json({})

    def _parts(self) -> list[str]:
        self.hub.requests.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _about(self, kind: str, name: str, rest: list[str]) -> None:
        files = self.hub.repositories.get(f"{kind}/{name}")
        if files is None:
            self._refuse("RepoNotFound", "there is no such repository")
        elif rest and rest[1] not in {"main", head(files)}:
            self._refuse("RevisionNotFound", "there is no such revision")
        elif rest[:1] == ["tree"]:
            asked = dict(parse_qsl(urlsplit(self.path).query))
            rows = _tree(files, "/".join(rest[2:]), asked.get("recursive", "").lower() in {"true", "1"})
            if rows or not rest[2:]:
                self._json(rows)
            else:
                self._refuse("EntryNotFound", "there is no such folder")
        else:
            about = {"id": name, "sha": head(files), "private": False, "tags": [], "downloads": 0, "likes": 0}
            self._json({**about, "lastModified": DATE, "siblings": [{"rfilename": path} for path in sorted(files)]})

    def _file(self, name: str, revision: str, path: str) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self._refuse("RepoNotFound", "there is no such repository")
        elif revision not in {"main", head(files)}:
            self._refuse("RevisionNotFound", "there is no such revision")
        elif path not in files:
            self._refuse("EntryNotFound", "there is no such file", {"X-Repo-Commit": head(files)})
        else:
            known = {"ETag": f'"{oid(files[path])}"', "X-Repo-Commit": head(files), "Accept-Ranges": "bytes"}
            start, end = 0, len(files[path])
            if given := self.headers.get("Range"):
                first, last = given.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1 if last else end, end)
                known["Content-Range"] = f"bytes {start}-{end - 1}/{len(files[path])}"
            self._send(206 if given else 200, files[path][start:end], known)

    def _commit(self, name: str, body: bytes) -> None:
        files = dict(self.hub.repositories[name])
        for line in body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "lfsFile":
                files[row["value"]["path"]] = self.hub.large[row["value"]["oid"]]
            elif row["key"] == "deletedFile":
                del files[row["value"]["path"]]
        self.hub.repositories[name] = files
        url = f"{self.hub.endpoint}/{name.removeprefix('models/')}/commit/{head(files)}"
        self._json({"success": True, "commitOid": head(files), "commitUrl": url})

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._send(404, json.dumps({"error": message}).encode(), said)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(files: Files, under: str, recursive: bool) -> list[dict[str, object]]:
    """Files and folders below a folder, as the Hub lists them."""
    prefix = f"{under}/" if under else ""
    inside = {path: content for path, content in files.items() if path.startswith(prefix)}
    commit = {"id": head(files), "title": "commit", "date": DATE}
    folders = {parent.as_posix() for path in inside for parent in Path(path).parents if parent.name}
    rows = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
    rows += [{"type": "file", "path": path, "size": len(c), "oid": oid(c)} for path, c in sorted(inside.items())]
    kept = [row for row in rows if str(row["path"]).startswith(prefix)]
    return [{**row, "lastCommit": commit} for row in kept if recursive or "/" not in str(row["path"])[len(prefix) :]]
