"""The commands on what is finished or saved: `hf-mia query RUN`, `card RUN`, `push RUN`, `attack FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from hf_mia.console import AsJson, Cache, Out, errors, quiet
from hf_mia.storage.keys import cache_folder


def query(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished audit, such as runs/demo.")],
    text: Annotated[Optional[list[str]], typer.Option(help="A text; all that are given are one user's.")] = None,
    target: Annotated[
        Optional[list[str]], typer.Option(help="The target of each --text, in order, where the run is about pairs.")
    ] = None,
    file: Annotated[
        Optional[Path], typer.Option(help="One user's texts, one a line (.txt), or users' (.jsonl, .parquet, .tsv).")
    ] = None,
    image: Annotated[Optional[list[Path]], typer.Option(help="An image file, each by itself.")] = None,
    attack: Annotated[
        Optional[str], typer.Option(help="One of the run's; default: the first that can be asked.")
    ] = None,
    fpr: Annotated[float, typer.Option(help="The chance that a non-member is called consistent with membership.")] = (
        0.05
    ),
    model: Annotated[
        Optional[str], typer.Option(help="The audited target, where the folder does not keep it: a folder or Hub id.")
    ] = None,
    cache: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Was this text, pair, user's data or image in the training set? Asked of a finished audit's folder."""
    with errors():
        import json

        from rich.console import Console

        from hf_mia.cli.query import print_answers, to_json, units
        from hf_mia.queries.opened import opened
        from hf_mia.queries.query import query as fitted

        quiet()
        run = opened(folder)
        about = units(run.experiment.data, text or [], file, image or [], target or [])
        made = fitted(run, attack, model, cache_folder(cache))
        answers = made.ask(about, fpr)
        if as_json:
            typer.echo(json.dumps(to_json(made, answers, fpr), allow_nan=False))
        else:
            print_answers(made, answers, fpr, Console(highlight=False))


def card(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a run's dataset on the Hub.")],
    model: Annotated[Optional[str], typer.Argument(help="A model's folder or README.md, or an id on the Hub.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Open a pull request on the Hub.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Write to the main branch on the Hub.")] = False,
) -> None:
    """Write an audit to a model's card, or print the section."""
    with errors():
        from hf_mia.publish.card import section, write_card
        from hf_mia.publish.hub import push_card, run_folder
        from hf_mia.publish.outcome import read_outcome

        outcome = read_outcome(run_folder(folder))
        if (push or commit) and (model is None or (push and commit)):
            raise ValueError("--push opens a pull request, --commit writes to main: give one, and the model's id.")
        if model is None:
            typer.echo(section(outcome))
        elif push or commit:
            typer.echo(push_card(outcome, model, create_pr=push))
        else:
            typer.echo(f"Written to {write_card(Path(model), outcome)}.")


def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="A dataset's id on the Hub, such as org/name.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is public: it names the units.")] = False,
    pull_request: Annotated[bool, typer.Option("--pr", help="Open a pull request on a repository there is.")] = False,
) -> None:
    """Put a run folder on the Hub as a dataset, private unless told."""
    with errors():
        from hf_mia.publish.hub import push_run

        typer.echo(push_run(folder, repository, private=not public, create_pr=pull_request))


def attack(
    file: Annotated[Path, typer.Argument(help="Saved logits, .parquet or .npz: hf_mia.Saved(...).save(path).")],
    attacks: Annotated[
        Optional[list[str]],
        typer.Option("--attack", help="A name of `hf-mia list`, again for more; default: all that fit."),
    ] = None,
    references: Annotated[
        Optional[list[Path]],
        typer.Option("--reference", help="Another model's logits of the same units; again for more."),
    ] = None,
    fprs: Annotated[
        Optional[list[float]], typer.Option("--fpr", help="A false-positive rate; default: .01, .001.")
    ] = None,
    delta: Annotated[Optional[float], typer.Option(help="Bound epsilon from below, at this delta.")] = None,
    provenance: Annotated[
        str, typer.Option(help="How membership came about: random_split, coin, canary, post_hoc or unknown.")
    ] = "unknown",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Attack a classifier by what it said, saved in a file: no model is asked."""
    with errors():
        import json

        from rich.console import Console

        from hf_mia.cli.attack import FPRS, Request, attacked, print_attacked, report_json, write

        found = attacked(
            Request(
                file=file,
                references=tuple(references or ()),
                attacks=tuple(attacks or ()),
                fprs=tuple(fprs or FPRS),
                delta=delta,
                provenance=provenance,
            )
        )
        folder = out or Path("runs") / file.stem
        write(found, folder)
        if as_json:
            typer.echo(json.dumps(report_json(found), allow_nan=False))
        else:
            print_attacked(found, Console(highlight=False))
            typer.echo(f"Written to {folder}: report.json, figures, exposed.")


def add(app: typer.Typer) -> None:
    """Make these commands of the app."""
    for command in (query, card, push, attack):
        app.command()(command)
