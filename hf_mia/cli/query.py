"""What `hf-mia query` reads from its arguments, and how it shows the answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mia.data import Data
from hf_mia.data.texts import Texts, Written
from hf_mia.queries.query import Answer, Query, Unit, picture, user, user_of_pairs
from hf_mia.queries.words import Word

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LARGEST = 1 << 30  # bytes of a file of texts
YOU = "you"
SHADES = ((1, "bold red"), (10, "yellow"), (100, "green"))  # ranks below, and their colour; others have none
TABLES = (".jsonl", ".parquet", ".tsv")
PAIR = ("source", "target")


def units(
    data: Data, texts: Sequence[str], file: Path | None, images: Sequence[Path], targets: Sequence[str] = ()
) -> list[Unit]:
    """Whom a command line asks about: one user for all its `texts`, those of a file, each of the images.

    Where the run is about pairs, the texts are sources and have their `targets` in the same order. ValueError where
    there is nothing, a side of a pair is missing, or there is another kind of records than the run is about.
    """
    if not (texts or targets or file or images):
        raise ValueError("nothing is asked: give --text, --file or --image.")
    pairs = data.columns == PAIR
    wanted = "text" if pairs else data.columns[0]
    if wrong := [kind for kind, given in (("text", texts or file), ("image", images)) if given and kind != wanted]:
        way_out = "--text and --target" if pairs else f"--{wanted}"
        raise ValueError(f"this run is about {data.record}s, and {wrong[0]}s were given: take {way_out}.")
    if targets and not pairs:
        raise ValueError(f"this run is about {data.record}s, which have no target: leave out --target.")
    if pairs and len(texts) != len(targets):
        raise ValueError(
            f"every --text needs its --target, in the same order, but there are {len(texts)} of --text and "
            f"{len(targets)} of --target."
        )
    found = []
    if texts:
        found.append(user_of_pairs(YOU, zip(texts, targets, strict=True)) if pairs else user(YOU, texts))
    if file:
        found += read_file(file, data if isinstance(data, Written) else Texts())
    return found + [picture(path) for path in images]


def read_file(path: Path, data: Written) -> list[Unit]:
    """The users of a file: rows with columns of texts (.jsonl, .parquet, or .tsv whose first line names the columns),
    or one user's texts, one a line (.txt), which pairs cannot have.

    The columns are called as in the run's data, or `text`, or `source` and `target`, and `user`; without the latter,
    all rows are one user's. ValueError where a file is larger than a gigabyte, of another kind, damaged, or has no such
    column.
    """
    if not path.is_file():
        raise ValueError(f"--file {str(path)!r} is no file: check the path.")
    suffixes = TABLES if data.columns == PAIR else (".txt", *TABLES)
    if path.suffix not in suffixes or path.stat().st_size > LARGEST:
        raise ValueError(f"--file {str(path)!r} must end in {', '.join(suffixes)} and have at most a gigabyte.")
    try:
        if path.suffix == ".txt":
            return [user(path.stem, path.read_text(encoding="utf-8").splitlines())]
        columns = _columns(path)
    except (OSError, ValueError) as error:  # bytes that are not UTF-8 too, and what pyarrow finds
        raise ValueError(
            f"--file {str(path)!r} could not be read: {str(error).splitlines()[0].rstrip('.')}."
        ) from error
    return _users(path, data, columns)


def _users(path: Path, data: Written, columns: Mapping[str, Sequence[object]]) -> list[Unit]:
    """The users whose texts, or pairs, stand in the columns of a file, in the order of their first row."""
    texts = []
    for field, name in data.names.items():
        if not (here := [one for one in (name, field) if one in columns]):
            wanted = " or ".join(repr(one) for one in dict.fromkeys((name, field)))
            raise ValueError(f"--file {str(path)!r} has no column {wanted}: it has {sorted(columns)}.")
        texts.append(columns[here[0]])
    who = next((name for name in (data.user, "user") if name in columns), None)
    found: dict[str, list[Mapping[str, object]]] = {} if who else {path.stem: []}
    for name, *row in zip(columns[who] if who else [path.stem] * len(texts[0]), *texts, strict=True):
        if name is not None and any(one is not None for one in row):
            record = {field: "" if one is None else str(one) for field, one in zip(data.columns, row, strict=True)}
            found.setdefault(str(name), []).append(record)
    return [Unit(name, tuple(its)) for name, its in found.items()]


def _columns(path: Path) -> dict[str, list[object]]:
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        return dict(pq.read_table(path).to_pydict())
    if path.suffix == ".tsv":
        return _tabbed(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("every line must be an object")
    return {name: [row.get(name) for row in rows] for name in {name: None for row in rows for name in row}}


def _tabbed(path: Path) -> dict[str, list[object]]:
    """The columns of a table of tabs, which has no quotation marks and no line breaks in its cells."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    head, *rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 2):
        if row != [""] and len(row) != len(head):
            raise ValueError(f"line {number} has {len(row)} cells, and the first line names {len(head)} columns")
    return {name: [row[i] or None for row in rows if row != [""]] for i, name in enumerate(head)}


def to_json(query: Query, answers: Iterable[Answer], fpr: float) -> dict[str, object]:
    """The answers, and what they rest on, as JSON holds them."""
    return {
        "target": query.run.name,
        "attack": query.name,
        "fpr": fpr,
        "answers": [answer.to_dict() for answer in answers],
        "cannot_be_asked": {name: why for name, why in query.hindered.items() if why},
    }


def print_answers(query: Query, answers: Sequence[Answer], fpr: float, console: Console) -> None:
    """Each unit's score, p-value and verdict, its words beside their ranks, and what it was compared with."""
    for answer in answers:
        console.print(f"{answer.unit}: {answer.verdict}" + (f" at FPR {fpr:g}" if answer.verdict != "n/a" else ""),
                      style="bold", markup=False)  # fmt: skip
        _print_one(query, answer, console, 2)
        for record in answer.records:
            console.print(f"  {record.unit}: {record.verdict}", markup=False)
            _print_one(query, record, console, 4)
    if len(answers) > 1:
        console.print(f"{len(answers)} units were asked about: of as many non-members, about "
                      f"{len(answers) * fpr:.2g} would be called consistent with membership by chance.")  # fmt: skip
    console.print(f"Asked of {query.run.name} by {query.name}: evidence, not proof, about this model and attack.",
                  markup=False)  # fmt: skip
    for name, why in query.hindered.items():
        if why:
            console.print(f"Cannot be asked: {name}: {why}", markup=False)


def _print_one(query: Query, answer: Answer, console: Console, margin: int) -> None:
    from rich.padding import Padding

    told = answer.why
    if answer.score is not None:
        unit, record = query.run.experiment.data.unit, query.run.experiment.data.record
        read = "" if unit == record else f", each read from {answer.read} {record}{'s' if answer.read > 1 else ''}"
        some = f" (of the {answer.given} given, {answer.read} were read)" if answer.read < answer.given else ""
        told = (f"score {answer.score:.4g}, p = {answer.p_value:.3g} among {len(answer.calibration)} {unit}s that the "
                f"audit knows to be no members{read}{some}. {told}")  # fmt: skip
    console.print(Padding(told, (0, 0, 0, margin)), markup=False)
    if answer.words:
        console.print(Padding(_marked(answer.words), (0, 0, 0, margin)))


def _marked(spoken: Iterable[Word]) -> Text:
    """Each word with the number of words that the model found likelier: low ranks, in colour, are what it expected."""
    from rich.text import Text

    line = Text()
    for word in spoken:
        style = next((style for most, style in SHADES if word.rank < most), "")
        line.append(f"{word.text}{'' if word.known else '?'}·{word.rank}", style).append(" ")
    return line
