"""`hf-mia attack FILE` as a person meets it: a table, a folder, JSON, bounds on epsilon, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from hf_mia.cli.main import app
from hf_mia.reports.privacy import epsilon_from_threshold, epsilon_one_run
from hf_mia.reports.report import Report
from hf_mia.saved.arrays import Reference, attack
from hf_mia.saved.attacking import Saved

N, C, R = 200, 5, 6
ALONE = {"correctness", "loss", "confidence", "entropy", "modified-entropy", "loss-per-class"}
COMPARED = {"relative-loss", "lira", "lira-offline", "rmia", "rmia-offline", "base"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target's logits, and six references' in three complementary pairs."""
    folder, rng = tmp_path_factory.mktemp("saved"), np.random.default_rng(0)
    labels = rng.integers(C, size=N)

    def save(path: Path, member: np.ndarray) -> None:
        logits = rng.normal(size=(N, C)).astype(np.float32)
        logits[np.arange(N), labels] += 1 + 3 * member
        Saved(logits, labels, member.astype(np.float64)).save(path)

    save(folder / "target.parquet", rng.random(N) < 0.5)
    for pair in range(R // 2):
        half = rng.permutation(N) < N // 2
        save(folder / f"reference-{2 * pair}.npz", half)
        save(folder / f"reference-{2 * pair + 1}.parquet", ~half)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


def referred(files: Path) -> list[object]:
    return [part for path in sorted(files.glob("reference-*")) for part in ("--reference", path)]


def strict(text: str) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_all_attacks_that_fit_are_run(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = call(files / "target.parquet", *referred(files), "--out", out)
    assert done.exit_code == 0, done.output
    found = strict((out / "report.json").read_text())
    assert set(found["attacks"]) == ALONE | COMPARED | {"modified-entropy-per-class"}
    assert found["headline"] == "lira"
    for name in ("rmia", "members", "6 references", "TPR@1%", "n/a", "Written to"):
        assert name in done.stdout
    for name in ("roc", "scores"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_those_of_the_one_liner(files: Path, tmp_path: Path) -> None:
    done = call(
        files / "target.parquet", *referred(files), "--attack", "rmia", "--out", tmp_path, "--fpr", 0.1, "--json"
    )
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)
    assert found == strict((tmp_path / "report.json").read_text())
    report = Report.from_dict(found["attacks"]["rmia"]["report"])
    target, *others = (Saved.read(p) for p in (files / "target.parquet", *sorted(files.glob("reference-*"))))
    references = [Reference(logits=one.logits, member=one.member) for one in others]
    expected = attack("rmia", logits=target.logits, labels=target.labels, member=target.member, references=references)
    assert report.scores.tobytes() == expected.scores.tobytes()
    assert (report.threshold, report.fprs) == (expected.threshold, (0.1,))
    assert list(found["attacks"]["rmia"]["estimates"]) == ["auc", "accuracy", "precision", "recall", "tpr@0.1"]
    exposed = pq.read_table(tmp_path / "exposed" / "rmia.parquet")
    assert exposed["score"].to_pylist() == sorted(expected.scores, reverse=True)
    assert exposed["flip_rate"].null_count == 0
    assert sorted(exposed["group"].to_pylist()) == sorted(target.labels.tolist())


def test_without_references_there_are_scores_and_no_threshold(files: Path, tmp_path: Path) -> None:
    done = call(files / "target.parquet", "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)
    assert set(found["attacks"]) == ALONE | {"modified-entropy-per-class"}
    assert found["headline"] == "loss"
    assert found["attacks"]["loss"]["report"]["threshold"] is None
    assert found["attacks"]["loss"]["estimates"]["accuracy"]["value"] is None
    assert found["attacks"]["loss"]["shuffled"]["p_value"] < 0.05
    assert any("no blind control" in limit for limit in found["limits"])


def test_attacks_that_do_not_fit_are_left_out_with_the_reason(files: Path, tmp_path: Path) -> None:
    """References that never saw the units."""
    unseen = []
    for path in sorted(files.glob("reference-*")):
        one = Saved.read(path)
        Saved(one.logits, one.labels, np.zeros(N)).save(tmp_path / path.name)
        unseen += ["--reference", tmp_path / path.name]
    done = call(files / "target.parquet", *unseen, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "Left out: lira. For each unit LiRA needs a reference that saw it" in " ".join(done.stdout.split())
    found = strict((tmp_path / "run" / "report.json").read_text())
    assert set(found["left_out"]) == {"lira", "rmia"}
    assert found["headline"] == "lira-offline"
    named = call(files / "target.parquet", *unseen, "--attack", "lira", "--out", tmp_path / "named")
    assert named.exit_code == 2
    assert "needs a reference that saw it" in named.stderr


def test_epsilon_is_bounded_where_membership_was_random(files: Path, tmp_path: Path) -> None:
    options = (files / "target.parquet", *referred(files), "--attack", "lira", "--out", tmp_path, "--delta", 1e-5)
    done = call(*options, "--provenance", "coin", "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["attacks"]["lira"]
    report = Report.from_dict(found["report"])
    given = report.scores, report.member, 1e-5
    by_threshold = epsilon_from_threshold(*given, provenance="coin", threshold=report.threshold)
    one_run = epsilon_one_run(*given, provenance="coin")
    assert [bound["value"] for bound in found["epsilon"]] == [by_threshold.value, one_run.value]
    assert one_run.value > 0.5
    split = call(*options, "--provenance", "random_split")
    assert split.exit_code == 0, split.output
    assert "epsilon is at least, at delta = 1e-05" in split.stdout
    assert "one-run" not in split.stdout
    for wrong in ((), ("--provenance", "post_hoc")):
        refused = call(*options, *wrong)
        assert refused.exit_code == 2
        assert "needs membership drawn at random" in refused.stderr


def test_bad_input_ends_in_one_line(files: Path, tmp_path: Path) -> None:
    target, first = files / "target.parquet", files / "reference-0.npz"
    one = Saved.read(first)
    others = {
        "few": Saved(one.logits[1:], one.labels[1:], one.member[1:]),
        "labels": Saved(one.logits, (one.labels + 1) % C, one.member),
        "nan": Saved(np.full_like(one.logits, np.nan), one.labels, one.member),
    }
    for name, saved in others.items():
        saved.save(tmp_path / f"{name}.npz")
    named = Saved(one.logits, one.labels, one.member, tuple(f"u{i}" for i in range(N)))
    named.save(tmp_path / "named.npz")
    Saved(one.logits, one.labels, one.member, tuple(f"u{N - i}" for i in range(N))).save(tmp_path / "shuffled.npz")
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "none.npz"], "none.npz is no file"),
        ([target, "--attack", "lirra"], "did you mean 'lira'"),
        ([target, "--attack", "encodermi-v"], "asks Views of a model"),
        ([target, "--attack", "loss", "--attack", "loss"], "attacks must differ"),
        ([target, "--attack", "rmia"], "RMIA needs 2 other models or more, but has 0"),
        ([target, "--reference", tmp_path / "few.npz"], "few.npz must be about the units of"),
        ([target, "--reference", tmp_path / "labels.npz"], "its labels are others, or in another order"),
        ([target, "--reference", tmp_path / "nan.npz"], "nan.npz: logits must be finite"),
        (
            [tmp_path / "named.npz", "--reference", tmp_path / "shuffled.npz"],
            "its units are others, or in another order",
        ),
        ([target, "--provenance", "coins"], "did you mean 'coin'"),
        ([target, "--delta", 2, "--provenance", "coin"], "0 <= delta < 1"),
        ([target, "--fpr", 2], "fpr: must lie between 0 and 1"),
    ]
    for arguments, message in cases:
        done = call(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 2, (arguments, done.output)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
