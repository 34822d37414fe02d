"""A run folder from a stranger: it neither leads out, nor swells, nor calls; before anything is computed or sent."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub import Repository, client
from hub import serving as loopback

from hf_mia.audits.folder import read_evidence
from hf_mia.config import LONGEST
from hf_mia.data.texts import Texts
from hf_mia.publish.outcome import LARGEST, read_outcome
from hf_mia.queries.opened import REPORT, opened
from hf_mia.queries.query import query, user
from hf_mia.queries.refit import refitted
from hf_mia.storage import foreign
from hf_mia.storage.foreign import inside

OUTSIDE = "leads out of the run folder"


@pytest.fixture
def copy(published_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published_run, tmp_path / "run")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the folder that is none of its reader's business."""
    (tmp_path / "secret").write_text("the owner's own")
    return tmp_path / "secret"


def linked(path: Path, to: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def swollen(path: Path, size: int) -> None:
    """A file of so many bytes, of which the disk holds none."""
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", ["report.json", "config.yaml"])
def test_a_link_out_of_the_folder_is_not_read(copy: Path, secret: Path, name: str) -> None:
    linked(copy / name, secret)
    with pytest.raises(ValueError, match=OUTSIDE):
        read_outcome(copy)


@pytest.mark.parametrize(("name", "most"), [("report.json", LARGEST), ("config.yaml", LONGEST)])
def test_what_is_swollen_is_refused_unread(copy: Path, name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    swollen(copy / name, 1 << 40)
    monkeypatch.setattr("json.loads", lambda *_, **__: pytest.fail("it was read")) if name == "report.json" else None
    with pytest.raises(ValueError, match=f"has 1,099,511,627,776 bytes, and at most {most:,} are read"):
        read_outcome(copy)
    if name == "report.json" and (copy / "query.json").exists():
        with pytest.raises(ValueError, match=f"at most {REPORT:,} are read"):
            opened(copy)


def test_a_config_nested_deep_is_refused_at_once(copy: Path) -> None:
    (copy / "config.yaml").write_text("[" * 500_000)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        read_outcome(copy)


def attack_folder(folder: Path) -> Path:
    return next(path for path in (folder / "evidence").iterdir() if (path / "shadow-001.parquet").exists())


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "swollen": (lambda path: swollen(path, 1 << 40), "at most 1,073,741,824 are read"),
    "no parquet": (lambda path: path.write_bytes(b"PAR1 nothing PAR1"), "shadow-001.parquet is damaged"),
    "other columns": (lambda path: pq.write_table(pa.table({"unit": [1]}), path), "its column 'unit' must hold string"),
    "objects": (
        lambda path: pq.write_table(pa.table({"unit": ["a"], "member": [b"x"], "features": [[1.0]]}), path),
        "its column 'member' must hold double",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_evidence_is_checked_before_an_attack_is_fitted_on_it(copy: Path, case: str) -> None:
    """As `evaluate.load("auditmi").compute(run=...)` does it."""
    change, message = DAMAGE[case]
    change(copy / "evidence" / "mean-loss" / "shadow-001.parquet")
    with pytest.raises(ValueError, match=re.escape(message)):
        refitted(copy, Texts(), "mean-loss")


def test_evidence_that_is_a_link_is_not_read(copy: Path, secret: Path) -> None:
    linked(copy / "evidence" / "mean-loss" / "shadow-001.parquet", secret)
    with pytest.raises(ValueError, match=OUTSIDE):
        refitted(copy, Texts(), "mean-loss")


def test_a_bomb_is_refused_by_its_own_account(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal numbers pack to next to nothing: the file tells how many there are."""
    path = copy / "evidence" / "mean-loss" / "shadow-001.parquet"
    rows = 1000
    table = {"unit": list(map(str, range(rows))), "member": np.zeros(rows), "features": [[0.0] * 50] * rows}
    pq.write_table(pa.table(table), path, compression="zstd")
    monkeypatch.setattr(foreign, "NUMBERS", 10_000)
    monkeypatch.setattr("hf_mia.queries.opened.read_evidence", lambda path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="it unpacks to more than 10,000 numbers"):
        refitted(copy, Texts(), "mean-loss")


@pytest.mark.parametrize("name", ["figures/roc.png", "evidence/mean-loss/shadow-001.parquet", "exposed/x.parquet"])
def test_nothing_outside_of_the_folder_is_sent_to_the_hub(copy: Path, secret: Path, tmp_path: Path, name: str) -> None:
    """A link in a stranger's folder to a key of ours would be published with it."""
    linked(copy / name, secret)
    with loopback() as hub:
        hub.repositories["models/org/model"] = Repository({"README.md": b"# A model\n"})
        (tmp_path / "home").mkdir()
        with client(hub, tmp_path / "home") as own:
            commands = [("push", copy, "org/audit")]
            commands += [("card", copy, "org/model", "--push")] if name.endswith("png") else []
            for command in commands:
                told = own.call(*command)
                assert told.code != 0
                assert OUTSIDE in told.stderr + told.stdout
        sent = [content for one in hub.repositories.values() for content in {**one.files, **one.proposed}.values()]
        assert not any(b"the owner's own" in content for content in sent)
        assert not any(one.commits for one in hub.repositories.values())


def test_a_snapshot_of_the_hubs_cache_is_made_of_links_and_is_taken(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--org--audit"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "figures").mkdir(parents=True)
    (repository / "blobs" / "123").write_text("content")
    (snapshot / "figures" / "roc.png").symlink_to("../../../blobs/123")
    assert inside(snapshot, snapshot / "figures" / "roc.png", 100).read_text() == "content"
    (repository / "other").write_text("content")
    linked(snapshot / "figures" / "roc.png", repository / "other")
    with pytest.raises(ValueError, match=OUTSIDE):
        inside(snapshot, snapshot / "figures" / "roc.png", 100)
    with pytest.raises(ValueError, match=OUTSIDE):
        inside(snapshot, snapshot / ".." / "abc" / ".." / ".." / "other", 100)


@pytest.mark.parametrize(
    "target",
    [
        {"name": "service", "url": "http://127.0.0.1:{port}/v1", "model": "m", "key": "PATH"},
        {"name": "service", "url": "http://127.0.0.1:{port}", "model": "m", "interface": "chat"},
    ],
)
def test_a_folder_does_not_decide_where_questions_are_sent(
    run_folder: Path, tmp_path: Path, target: dict[str, str]
) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        port = str(listening.getsockname()[1])
        config["target"] = {key: value.replace("{port}", port) for key, value in target.items()}
        config |= {"controls": [], "shadows": {"count": len(opened(run_folder).shadows), "recipe": "lstm"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError):  # noqa: PT011  by the config or by the query, whichever sees it first
            query(opened(folder)).ask([user("x", ["w001 w002"])])
        with pytest.raises(TimeoutError):
            listening.accept()


def test_what_was_written_is_what_is_read(copy: Path) -> None:
    """The checks refuse nothing of an honest folder."""
    assert read_outcome(copy).reports
    assert refitted(copy, Texts(), "mean-loss").name == "mean-loss"
    assert len(read_evidence(attack_folder(copy) / "shadow-001.parquet").names)
