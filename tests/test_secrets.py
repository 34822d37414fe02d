"""A token and a service's key, planted in the environment: nothing that is printed, logged or written holds them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import worlds
import yaml
from hub import TOKEN, Hub, Repository
from hub import serving as loopback
from serving import Request, Server, serving, status

KEY = "sk-planted-51c0ffee"
PLANTED = {value.encode() for value in (TOKEN, KEY)} | {base64.b64encode(value.encode()) for value in (TOKEN, KEY)}
USERS = 16


def said(request: Request) -> object:
    """A service that knows every word equally well, and says whose key it was given."""
    words = str(request.body["prompt"]).split()
    tokens = [words[0], *(f" {word}" for word in words[1:]), " end"]
    numbers = [None, *(-1.0 - len(word) % 3 for word in tokens[1:])]
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    logprobs = {"tokens": tokens, "token_logprobs": numbers, "top_logprobs": None, "text_offset": offsets}
    choice = {"index": 0, "text": "".join(tokens), "logprobs": logprobs, "seen": request.authorization}
    return {"choices": [choice], "usage": {"prompt_tokens": len(words), "completion_tokens": 1}, "id": KEY}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(said)) as running:
        yield running


def content(path: Path) -> bytes:
    """A file's bytes and, of a Parquet file, whose columns are packed, what they hold and what is said of them."""
    found = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        found += json.dumps(table.to_pylist(), default=repr).encode() + repr(table.schema.metadata).encode()
    return found


def holding(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(secret in content(path) for secret in PLANTED)]


def test_what_searches_finds(tmp_path: Path) -> None:
    """A planted value is found in plain and in packed files: the test below can fail."""
    (tmp_path / "log").write_text(f"Authorization: Bearer {KEY}")
    worlds.pq.write_table(worlds.pa.table({"text": [f"my {TOKEN}"] * 1000}), tmp_path / "a.parquet", compression="zstd")
    assert {path.name for path in holding(tmp_path)} == {"log", "a.parquet"}


def test_neither_token_nor_key_is_anywhere(server: Server, tmp_path: Path) -> None:
    """An audit that is refused first and then goes on, a card, a push, and a push that is refused."""
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    data = worlds.write(work / "texts.parquet", USERS, each=2)
    target = {"name": "service", "url": server.url, "model": "m", "access": "prompt", "key": "PLANTED_KEY"}
    target |= {"members": [f"user {i:03d}" for i in range(0, USERS, 2)], "manners": {"pause": 0.01, "retries": 1}}
    config = {"data": {"path": str(data)}, "target": target, "shadows": {"count": 0}, "attacks": ["mean-loss"]}
    (work / "audit.yaml").write_text(yaml.safe_dump(config))
    printed: list[str] = []

    def run(hub: Hub, *arguments: str) -> int:
        environment = {**hub.environment(home), "PLANTED_KEY": KEY, "COLUMNS": "200"}
        command = [sys.executable, "-m", "hf_mia", *arguments]
        done = subprocess.run(
            command, env=environment, cwd=work, capture_output=True, text=True, timeout=280, check=False
        )
        printed.extend([done.stdout, done.stderr])
        return done.returncode

    with loopback() as hub:
        server.faults = [status(401, json.dumps({"error": f"the key {KEY} is not valid"}))] * 50
        audit = ["audit", "audit.yaml", "--cache", "cache", "--out", "run"]
        assert run(hub, *audit) == 2
        assert "PLANTED_KEY" in printed[-1]  # the variable is named, not what it holds
        server.faults = [status(503, f"busy, {KEY}")]
        assert run(hub, *audit) == 0, printed[-1]
        assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
        hub.repositories["models/org/model"] = Repository({"README.md": b"# A model\n"})
        (work / "model").mkdir()
        assert run(hub, "card", "run", "model") == 0, printed[-1]
        assert run(hub, "card", "run", "org/model", "--push") == 0, printed[-1]
        assert run(hub, "push", "run", "org/audit") == 0, printed[-1]
        hub.repositories["datasets/org/audit"].readonly = True
        assert run(hub, "push", "run", "org/audit") != 0
        assert run(hub, "query", "run", "--text", "w001 w002") == 2
        sent = [one for some in hub.repositories.values() for one in {**some.files, **some.proposed}.values()]
    assert len([path for path in work.rglob("*") if path.is_file()]) > 20
    assert not holding(work, home)
    assert not [text for text in printed if any(secret.decode() in text for secret in PLANTED)]
    assert not [one for one in sent if any(secret in one for secret in PLANTED)]
