"""The embedded corpus: exact counts, no sentence in two modules, the same in every process, nothing imported, prose."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from hf_mia.data import docstrings
from hf_mia.data.docstrings import docstring_sentences

UNITS, SENTENCES = 40, 12

PROBE = f"""
import hashlib, sys
import datasets
before = {{name.partition(".")[0] for name in sys.modules}}
from hf_mia.data.docstrings import docstring_sentences
rows = docstring_sentences({UNITS}, {SENTENCES})
gained = {{name.partition(".")[0] for name in sys.modules}} - before - set(sys.stdlib_module_names)
print(hashlib.sha256(repr(rows.to_dict()).encode()).hexdigest(), *sorted(gained))
"""

DOC = """Compute the thing that :func:`~a.thing` computes.  It is, e.g. Tuesday, done in one pass [1]_ here.

    Parameters
    ----------
    x : array_like
        The values to be
        sorted, see `the guide <https://x.org>`_ for more.
    y (`int`, *optional*): The **second** argument of the call.

    >>> thing(1)
    This is the output of a doctest.

    The code is as follows::

        This is a literal block and not prose.

    .. note::
        This is kept, for a note is prose.
    .. code-block:: python

        This is code and it is not prose.

    | This is a row of | a table. |
    Too few words.
    """
PROSE = [
    "Compute the thing that a.thing computes.",
    "The values to be sorted, see the guide for more.",
    "The second argument of the call.",
    "This is kept, for a note is prose.",
]


@pytest.fixture(scope="module")
def corpus() -> Dataset:
    return docstring_sentences(UNITS, SENTENCES)


def _tree(root: Path, modules: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `modules` (path -> source) the only installed package there is, named like no other."""
    package = root / "ownprose"
    for path, source in {"__init__.py": "", **modules}.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_bytes(source.encode("latin-1"))
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(docstrings, "PACKAGES", ("ownprose", "no_such_package"))


def _source(*texts: str) -> str:
    return f'raise RuntimeError("never run")\n\ndef f():\n    """{" ".join(texts)}"""\n'


def test_has_exactly_the_units_and_sentences(corpus: Dataset) -> None:
    assert corpus.column_names == ["user", "text"]
    assert set(Counter(corpus["user"]).values()) == {SENTENCES}
    assert list(corpus["user"]) == [user for user in corpus.unique("user") for _ in range(SENTENCES)]
    assert len(corpus.unique("user")) == UNITS


def test_no_sentence_twice_up_to_case_and_figures(corpus: Dataset) -> None:
    assert max(Counter(re.sub(r"\d+", "0", text.casefold()) for text in corpus["text"]).values()) == 1


def test_spreads_over_packages_without_tests_and_copies(corpus: Dataset) -> None:
    packages = Counter(user.partition(".")[0] for user in corpus.unique("user"))
    assert len(packages) >= 5
    assert max(packages.values()) < UNITS / 2
    assert not [user for user in corpus["user"] if re.search(r"\.(tests?|testing|_?vendor\w*|externals)(\.|$)", user)]


def test_every_sentence_is_prose(corpus: Dataset) -> None:
    for text in corpus["text"]:
        assert docstrings.SHORTEST <= len(text.split()) <= docstrings.LONGEST
        assert re.fullmatch(r"[A-Z].*[.!?]", text)
        assert text == " ".join(text.split())
        assert not re.search(r">>>|::|`|https?:|--|==|\w\(", text)


def test_reads_prose_and_drops_the_rest() -> None:
    assert list(docstrings._sentences(inspect.cleandoc(DOC))) == PROSE


def test_another_seed_takes_other_modules(corpus: Dataset) -> None:
    assert set(docstring_sentences(UNITS, SENTENCES, seed=1)["user"]) != set(corpus["user"])


@pytest.mark.parametrize("hashseed", ["1", "2"])
def test_is_the_same_in_another_process_and_imports_nothing(corpus: Dataset, hashseed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hashseed, "PYTHONPATH": str(Path(docstrings.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    digest, *gained = done.stdout.split()
    assert digest == hashlib.sha256(repr(corpus.to_dict()).encode()).hexdigest()
    assert gained == ["hf_mia"]
    assert "SyntaxWarning" not in done.stderr


@pytest.mark.filterwarnings("error")
def test_shared_sentences_belong_to_nobody_and_odd_files_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = "This one is in both of the files 12."
    modules = {
        "one.py": _source("The first is here alone.", shared, "This is the second of them."),
        "deep/two.py": _source("The third is in a folder.", shared.replace("12", "7"), "It is the last of all."),
        "three.py": _source(shared, "There is only one left in this."),
        "tests/four.py": _source("This is a test of it.", "This is another test of it."),
        "broken.py": _source("This is a file that does not parse.", "It is not to be read.") + "def",
        "latin.py": _source("This is a file that is not in \xdcTF.", "It is not to be read."),
        "odd.py": '"""The escape \\d is a warning. It is to be kept silent. This is so as well."""\n',
    }
    _tree(tmp_path, modules, monkeypatch)
    rows = docstring_sentences(3, 2)
    texts = {user: {row["text"] for row in rows if row["user"] == user} for user in rows.unique("user")}
    assert texts["ownprose.one"] == {"The first is here alone.", "This is the second of them."}
    assert texts["ownprose.deep.two"] == {"The third is in a folder.", "It is the last of all."}
    assert texts["ownprose.odd"] == {"It is to be kept silent.", "This is so as well."}


def test_too_many_units_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, {f"m{i}.py": _source(f"This is the {'very ' * i}own sentence.") for i in range(5)}, monkeypatch)
    with pytest.raises(ValueError, match=r"units must be at most 5, .* with 1 sentences .* is 6: lower units to 5"):
        docstring_sentences(6, 1)
    assert len(docstring_sentences(5, 1)) == 5


@pytest.mark.parametrize(("units", "sentences"), [(0, 20), (5, 0), (-1, 20)])
def test_nothing_asked_is_an_error(units: int, sentences: int) -> None:
    with pytest.raises(ValueError, match=f"units and sentences must be at least 1, but are {units} and {sentences}"):
        docstring_sentences(units, sentences)
