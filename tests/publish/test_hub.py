"""Cards and runs on a Hub of our own: what is written, what is refused and how that is said, what is fetched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub import TOKEN, Client, Hub, Repository, client, serving

from hf_mia.audits.folder import read_evidence
from hf_mia.publish.card import FIGURE, section, updated
from hf_mia.publish.hub import check_evidence, is_run_file
from hf_mia.publish.outcome import Outcome, read_outcome

CARD = "---\nlicense: mit   # as is\n---\n# A model\n"


@pytest.fixture(scope="module")
def outcome(published_run: Path) -> Outcome:
    return read_outcome(published_run)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.repositories.clear()
    server.requests.clear()
    return server


@pytest.fixture(scope="module")
def user(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("home")
    with client(server, home) as made:
        yield made
    assert TOKEN not in (home / "log").read_text()


def test_a_push_opens_a_pull_request_with_card_and_figure(
    hub: Hub, user: Client, published_run: Path, outcome: Outcome, tmp_path: Path
) -> None:
    model = hub.repositories["models/org/tiny"] = Repository({"README.md": CARD.encode()})
    head = model.head
    done = user.call("card", published_run, "org/tiny", "--push")
    assert done.code == 0, done.stderr
    assert done.stdout == f"http://127.0.0.1:{hub.port}/org/tiny/discussions/1\n"
    assert model.files == {"README.md": CARD.encode()}  # main is as it was
    assert model.proposed["README.md"].decode() == updated(CARD, outcome, "tiny")
    assert model.proposed[FIGURE] == (published_run / "figures" / "roc.png").read_bytes()
    assert [commit[1:] for commit in model.commits] == [(True, head)]


def test_a_commit_writes_to_main_and_a_second_time_nothing(
    hub: Hub, user: Client, published_run: Path, outcome: Outcome, tmp_path: Path
) -> None:
    model = hub.repositories["models/org/tiny"] = Repository({"config.json": b"{}"})  # without a card
    done = user.call("card", published_run, "org/tiny", "--commit")
    assert done.code == 0, done.stderr
    assert model.files["README.md"].decode() == updated("", outcome, "tiny")
    assert [proposed for _, proposed, _ in model.commits] == [False]
    again = user.call("card", published_run, "org/tiny", "--commit")
    assert again.stdout == "The card of org/tiny says so already.\n"
    assert len(model.commits) == 1


@pytest.mark.parametrize(
    ("repository", "token", "said"),
    [
        (Repository({"README.md": b"x"}), None, "no token: run `hf auth login`"),
        (Repository({"README.md": b"x"}), "hf_wrong", "the token is not valid"),
        (Repository({"README.md": b"x"}, readonly=True), TOKEN, "the token may not do this in org/tiny"),
        (Repository({"README.md": b"x"}, gated=True), TOKEN, "org/tiny is gated: ask for access"),
        (None, TOKEN, "there is no org/tiny on the Hub"),
        (Repository({"README.md": b"x"}, failing=503), TOKEN, "the Hub answered 503 about org/tiny. A commit is whole"),
        (Repository({"README.md": b"x"}, failing=0), TOKEN, "the Hub cannot be reached about org/tiny"),
        (Repository({"README.md": b"x"}, failing=412), TOKEN, "org/tiny changed meanwhile"),
        (Repository({"README.md": b"x"}, failing=400), TOKEN, "the Hub refused the content for org/tiny (400)"),
        (Repository({"README.md": b"---\na: [\n---\n"}), TOKEN, "the card of org/tiny: its front matter is not valid"),
        (Repository({"README.md": b"\xff"}), TOKEN, "the card is not UTF-8"),
    ],
    ids=["no token", "wrong token", "no permission", "gated", "missing", "down", "hangs up", "moved", "refused", "yaml",
         "bytes"],
)  # fmt: skip
def test_every_refusal_has_its_own_line_and_nothing_is_written(
    hub: Hub,
    user: Client,
    published_run: Path,
    tmp_path: Path,
    repository: Repository | None,
    token: str | None,
    said: str,
) -> None:
    if repository is not None:
        hub.repositories["models/org/tiny"] = repository
    files = None if repository is None else dict(repository.files)
    before = {path: path.read_bytes() for path in published_run.rglob("*") if path.is_file()}
    done = user.call("card", published_run, "org/tiny", "--push", token=token)
    assert done.code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert repository is None or (repository.files, repository.commits) == (files, [])
    assert {path: path.read_bytes() for path in published_run.rglob("*") if path.is_file()} == before


def test_a_hub_that_is_not_there_and_one_that_is_switched_off(published_run: Path, tmp_path: Path) -> None:
    """In processes of their own, as a user starts them."""
    environment = Hub(port=1).environment(tmp_path)
    for further in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-m", "hf_mia", "card", str(published_run), "org/tiny", "--push"],
            env={**environment, **further},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("hf-mia: the Hub cannot be reached about org/tiny (")
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr


def test_nothing_is_asked_of_the_hub_unless_told(hub: Hub, user: Client, published_run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert user.call("card", published_run).code == 0
    assert user.call("card", published_run, tmp_path / "model").code == 0
    assert user.call("card", published_run, "org/tiny").code == 2
    assert hub.requests == []


@pytest.fixture
def pushed(hub: Hub, user: Client, published_run: Path, tmp_path: Path) -> Repository:
    """A private dataset with the run, pushed from a folder that holds something else too."""
    folder = Path(shutil.copytree(published_run, tmp_path / "run"))
    (folder / "notes.txt").write_text("mine")
    (folder / "evidence" / "model.bin").write_bytes(b"weights")
    done = user.call("push", folder, "org/run")
    assert done.code == 0, done.stderr
    return hub.repositories["datasets/org/run"]


def test_a_run_goes_there_and_back(
    hub: Hub, user: Client, pushed: Repository, published_run: Path, outcome: Outcome, tmp_path: Path
) -> None:
    own = {path.relative_to(published_run).as_posix() for path in published_run.rglob("*") if path.is_file()}
    assert set(pushed.files) == own | {"README.md"}
    assert pushed.private
    assert len(pushed.commits) == 1
    pushed.files["evil.pkl"] = b"not fetched"
    done = user.fetch("org/run")
    assert done.code == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == own
    for name in own - {"config.yaml", "report.json"}:
        assert (folder / name).read_bytes() == (published_run / name).read_bytes()
    for name, read in (("config.yaml", yaml.safe_load), ("report.json", json.loads)):
        expected = read((published_run / name).read_text())
        expected["data"]["path"] = "texts.parquet"  # of the place on this disk the last part alone
        assert read((folder / name).read_text()) == expected
    back = read_outcome(folder)
    np.testing.assert_array_equal(back.headline.scores, outcome.headline.scores)
    evidence = read_evidence(folder / "evidence" / "reference" / "target.parquet")
    assert evidence.names == outcome.headline.units
    assert section(back) == section(outcome)


def test_a_run_on_the_hub_is_named_as_a_folder_is(
    user: Client, pushed: Repository, published_run: Path, outcome: Outcome
) -> None:
    """Its card is printed and its audit described again, without anybody fetching anything first."""
    path = yaml.safe_load((published_run / "config.yaml").read_text())["data"]["path"]
    done = user.call("card", "org/run")
    assert done.code == 0, done.stderr
    assert done.stdout == section(outcome) + "\n"
    again = user.call("audit", "org/run", f"data.path={path}", "--dry-run")
    assert again.code == 0, again.stderr
    assert "models: 4 to have" in again.stdout
    missing = user.call("card", "org/none")
    assert missing.code == 2
    assert "org/none" in missing.stderr


def test_the_readme_tells_what_it_is_and_datasets_opens_the_evidence(
    pushed: Repository, outcome: Outcome, tmp_path: Path
) -> None:
    readme = pushed.files["README.md"].decode()
    assert readme.endswith(section(outcome) + "\n")
    assert "says who is a member" in readme
    for name, content in pushed.files.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
    for name, report in outcome.reports.items():
        found = datasets.load_dataset(str(tmp_path / "there"), name, cache_dir=str(tmp_path / "cache"))
        assert {split: len(rows) for split, rows in found.items()} == {"target": 24, "shadows": 2 * 24}
        assert tuple(found["target"]["unit"]) == report.units
        assert found["target"]["member"][:] == [None] * 24


def test_a_second_push_deletes_what_is_no_longer_there_and_keeps_what_is_not_its_own(
    hub: Hub, user: Client, pushed: Repository, outcome: Outcome, tmp_path: Path
) -> None:
    pushed.files["mine.txt"] = b"kept"
    pushed.files["README.md"] = b"My words.\n"
    pushed.files["evidence/old/target.parquet"] = b"of another run"
    done = user.call("push", tmp_path / "run", "org/run")
    assert done.code == 0, done.stderr
    assert "evidence/old/target.parquet" not in pushed.files
    assert pushed.files["mine.txt"] == b"kept"
    assert pushed.files["README.md"].decode() == f"My words.\n\n{section(outcome)}\n"


def test_what_names_units_does_not_become_public_by_mistake(
    hub: Hub, user: Client, published_run: Path, tmp_path: Path
) -> None:
    there = hub.repositories["datasets/org/open"] = Repository(private=False)
    done = user.call("push", published_run, "org/open")
    assert done.code == 2
    assert "org/open is public, and a run names its units: add --public" in done.stderr
    assert there.files == {}
    assert user.call("push", published_run, "org/open", "--public").code == 0
    assert "report.json" in there.files
    assert user.call("push", published_run, "org/new", "--public").code == 0
    assert not hub.repositories["datasets/org/new"].private


@pytest.mark.parametrize(
    ("repository", "token", "said"),
    [
        (None, None, "no token: run `hf auth login`"),
        (None, "hf_wrong", "the token is not valid"),
        (Repository(private=True, readonly=True), TOKEN, "the token may not do this in org/run"),
        (Repository({"README.md": b"x"}, private=True, gated=True), TOKEN, "org/run is gated: ask for access"),
        (Repository(private=True, failing=503), TOKEN, "the Hub answered 503 about org/run. A commit is whole"),
        (Repository(private=True, failing=0), TOKEN, "the Hub cannot be reached about org/run"),
    ],
    ids=["no token", "wrong token", "no permission", "gated", "down", "hangs up"],
)
def test_a_run_that_cannot_be_pushed_is_nowhere_half_written(
    hub: Hub, user: Client, published_run: Path, repository: Repository | None, token: str | None, said: str
) -> None:
    """Its Parquet files may have gone up before the Hub hangs up: without the commit nobody sees them."""
    if repository is not None:
        hub.repositories["datasets/org/run"] = repository
    files = None if repository is None else dict(repository.files)
    before = {path: path.read_bytes() for path in published_run.rglob("*") if path.is_file()}
    done = user.call("push", published_run, "org/run", token=token)
    assert done.code == 2
    assert said in done.stderr.splitlines()[-1]
    assert repository is None or (repository.files, repository.commits) == (files, [])
    assert repository is not None or hub.repositories == {}
    assert {path: path.read_bytes() for path in published_run.rglob("*") if path.is_file()} == before


def test_a_pull_request_makes_no_repository(hub: Hub, user: Client, published_run: Path, tmp_path: Path) -> None:
    done = user.call("push", published_run, "org/run", "--pr")
    assert done.code == 2
    assert "there is no org/run on the Hub" in done.stderr
    assert hub.repositories == {}
    there = hub.repositories["datasets/org/run"] = Repository(private=True)
    assert user.call("push", published_run, "org/run", "--pr").stdout.endswith("/discussions/1\n")
    assert there.files == {}
    assert "report.json" in there.proposed


def test_what_is_no_run_is_not_pushed(hub: Hub, user: Client, tmp_path: Path) -> None:
    done = user.call("push", tmp_path, "org/run")
    assert done.code == 2
    assert "holds no report.json" in done.stderr
    assert hub.requests == []


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("report.json", None, "holds no report.json: name a dataset that `hf-mia push` wrote"),
        ("report.json", b"{}", "is not what `hf-mia audit` writes"),
        ("config.yaml", None, "config.yaml is no file of the run folder"),
        ("config.yaml", b"!!python/object/apply:os.system [ls]", "config.yaml could not be read"),
        ("evidence/reference/target.parquet", None, "holds no evidence of 'reference'"),
        ("evidence/reference/target.parquet", b"\x80\x04pickle", "is not Parquet"),
    ],
)
def test_what_is_fetched_is_checked(
    hub: Hub, user: Client, pushed: Repository, tmp_path: Path, path: str, content: bytes | None, said: str
) -> None:
    del pushed.files[path]
    if content is not None:
        pushed.files[path] = content
    done = user.fetch("org/run")
    assert done.code == 1
    assert "ValueError" in done.stderr
    assert said in done.stderr.splitlines()[-1]


def test_what_is_missing_or_too_large_is_not_fetched(
    hub: Hub, user: Client, pushed: Repository, tmp_path: Path
) -> None:
    assert "FileNotFoundError: there is no org/nothing" in user.fetch("org/nothing").stderr
    assert "FileNotFoundError: org/run has no such revision" in user.fetch("org/run", "v9").stderr
    assert user.fetch("org/run", pushed.head).code == 0
    code = "import hf_mia.publish.hub as hub; hub.LARGEST = 1000; hub.fetch_run('org/run')"
    environment = hub.environment(tmp_path / "third")
    hub.requests.clear()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "at most 20,000 and 1,000 are fetched" in done.stderr
    assert not [request for request in hub.requests if "/resolve/" in request]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.json", True),
        ("config.yaml", True),
        ("figures/roc.png", True),
        ("evidence/a (b=1)/shadow-001.parquet", True),
        ("evidence/a/model.pkl", False),
        ("evidence/../x.parquet", False),
        ("evidence//x.parquet", False),
        ("evidence/a/b/x.parquet", False),
        ("../report.json", False),
        ("sub/report.json", False),
        ("figures/roc.svg", False),
        ("README.md", False),
    ],
)
def test_what_belongs_to_a_run(name: str, expected: bool) -> None:
    assert is_run_file(name) == expected


def test_evidence_with_other_columns_is_refused(published_run: Path, outcome: Outcome, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published_run, tmp_path / "run"))
    check_evidence(folder, replace(outcome, folder=folder))
    path = folder / "evidence" / "reference" / "shadow-001.parquet"
    pq.write_table(pa.table({"unit": ["a"], "member": [1.0], "features": [["text"]]}), path)
    with pytest.raises(ValueError, match="must have the columns"):
        check_evidence(folder, replace(outcome, folder=folder))


def test_no_place_and_no_secret_of_the_publisher_is_pushed(
    hub: Hub, user: Client, published_run: Path, outcome: Outcome, tmp_path: Path
) -> None:
    """Planted in every text that a config and a report have room for; what is there is said before it is pushed."""
    folder = Path(shutil.copytree(published_run, tmp_path / "run"))
    secret, home = "hf_" + "Abc123" * 6, "/home/ann/private"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["target"] = {
        "kind": "hosted", "model": f"{home}/model", "url": f"https://ann:{secret}@host/v1?key={secret}",
        "version": f"of {TOKEN}", "members_file": "~/lists/members.txt", "key": "MY_KEY",
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    report = json.loads((folder / "report.json").read_text())
    report["target"] |= {"name": f"{home}/model", "service": {"url": f"https://{secret}@host/v1"}}
    (folder / "report.json").write_text(json.dumps(report))
    done = user.call("push", folder, "org/planted")
    assert done.code == 0, done.stderr
    there = hub.repositories["datasets/org/planted"].files
    for planted in (secret, TOKEN, home, "ann:", "lists/", str(tmp_path)):
        assert not [name for name, content in there.items() if planted.encode() in content], planted
    told = yaml.safe_load(there["config.yaml"])["target"]
    assert (told["model"], told["url"], told["members_file"]) == ("model", "https://host/v1", "members.txt")
    assert (told["key"], told["version"]) == ("MY_KEY", "of ***")
    assert "the model (model)" in there["README.md"].decode()
    assert "without places and secrets of this machine, in data.path, target.members_file, target.model" in done.stderr
    assert "name the service that was asked, https://host/v1." in done.stderr
    assert secret not in done.stderr + done.stdout


def test_what_is_pushed_tells_the_verdict(pushed: Repository) -> None:
    assert json.loads(pushed.files["report.json"])["verdict"] == "leak"
