"""The embedded pairs: what of a catalogue is kept, against catalogues written here by hand, and a demo of them."""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_mia.audits.demo import DEMOS
from hf_mia.cli.main import app, run
from hf_mia.data.messages import django_messages
from hf_mia.data.pairs import MESSAGES, Pairs

HEAD = {"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n > 1);\n"}
ADMIN = {
    "Add a page": "Ajouter une page",
    "Change\n  the page": "Modifier la\tpage",
    "Delete": "Supprimer",
    "Docs for Django": "DOCS FOR DJANGO",
    "No translation yet": "",
    "month\x04May the first": "Le premier mai",
    "one object here\x00%d objects here": "un objet ici\x00%d objets ici",
}
AUTH = {"ADD A PAGE": "Une page de plus", "Log in again": "Connectez-vous", "Log out now": "Partir", "Say it": "Dites"}


def catalogue(path: Path, messages: dict[str, str]) -> None:
    """The binary form that GNU gettext's manual describes: a header, two tables of (length, offset), the strings."""
    messages = dict(sorted({**HEAD, **messages}.items()))
    strings = [text.encode() for side in (messages, messages.values()) for text in side]
    start = 28 + 8 * len(strings)
    offsets = [start + sum(len(one) + 1 for one in strings[:i]) for i in range(len(strings))]
    table = [number for one, offset in zip(strings, offsets, strict=True) for number in (len(one), offset)]
    head = (0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, start)
    path.parent.mkdir(parents=True)
    path.write_bytes(struct.pack(f"<{7 + len(table)}I", *head, *table) + b"".join(one + b"\0" for one in strings))


@pytest.fixture
def django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two catalogues in French, of seven and four messages, and one in German."""
    root = tmp_path / "django"
    catalogue(root / "contrib/admin/locale/fr/LC_MESSAGES/django.mo", ADMIN)
    catalogue(root / "contrib/auth/locale/fr/LC_MESSAGES/django.mo", AUTH)
    catalogue(root / "contrib/auth/locale/de/LC_MESSAGES/django.mo", {"Log in again": "Nochmals anmelden"})
    spec = ModuleSpec("django", None, is_package=True)
    spec.submodule_search_locations = [str(root)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "django" else None)
    return root


def test_what_of_a_catalogue_is_kept(django: Path) -> None:
    rows = django_messages("fr", block=2)
    assert [tuple(row.values()) for row in rows] == [
        ("contrib.admin.django 000", "Add a page", "Ajouter une page"),
        ("contrib.admin.django 000", "Change the page", "Modifier la page"),
        ("contrib.admin.django 001", "Delete", "Supprimer"),
        ("contrib.admin.django 001", "May the first", "Le premier mai"),
        ("contrib.auth.django 000", "Log in again", "Connectez-vous"),
        ("contrib.auth.django 000", "Log out now", "Partir"),
    ]
    assert rows.column_names == ["block", "source", "target"]
    assert django_messages("fr", block=5)["source"][-1] == "one object here"
    assert django_messages("de", block=1)["target"] == ["Nochmals anmelden"]


@pytest.mark.parametrize(
    ("language", "block", "message"),
    [
        ("fr", 0, "block must be at least 1 message, but is 0"),
        ("fr", 6, "block must be at most the largest catalogue, but 6 messages fill none"),
        ("xx", 2, r"data.name = 'xx' is no language of the installed Django: it has \['de', 'fr'\]"),
    ],
)
def test_what_there_is_not_is_refused(django: Path, language: str, block: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        django_messages(language, block)


def test_without_django_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(
        app, ["demo", "translation", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "c")]
    )
    assert done.exit_code == 2
    assert "pip install 'hf_mia[demo-translation]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_installed_catalogues_are_enough_for_the_demo() -> None:
    pytest.importorskip("django")
    demo = DEMOS["translation"]
    pool = demo.data.load()
    assert isinstance(demo.data, Pairs)
    assert demo.data.path == MESSAGES
    assert demo.data.unit == "block"
    assert len(pool.names) >= 4 * demo.split.members
    assert pool.records.column_names == ["source", "target"]
    sources = [source.casefold() for source in pool.records["source"]]
    assert len(set(sources)) == len(sources)
    assert any("\N{LATIN SMALL LETTER E WITH ACUTE}" in target for target in pool.records["target"])


def test_a_small_demo_writes_a_folder_that_can_be_asked(tmp_path: Path) -> None:
    pytest.importorskip("django")
    demo = DEMOS["translation"]
    small = replace(
        demo,
        split=replace(demo.split, members=8),
        target=replace(demo.target, epochs=2, embedding=8, hidden=8),
        shadows=replace(demo.shadows, count=2),
    )
    out = tmp_path / "out"
    run(small, out, tmp_path / "cache", as_json=False)
    assert (out / "report.json").is_file()
    pair = ["--text", "This field is required.", "--target", "Ce champ est obligatoire."]
    done = CliRunner().invoke(app, ["query", str(out), *pair, "--json", "--cache", str(tmp_path / "other")])
    assert done.exit_code == 0, done.stderr
