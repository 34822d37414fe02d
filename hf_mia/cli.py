"""The command line: `hf-mia demo`, `audit CONFIG`, `attack FILE`, `list`. Results on stdout, progress on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from hf_mia.keys import cache_folder

if TYPE_CHECKING:
    from hf_mia.gate import Limit
    from hf_mia.plan import Experiment
    from hf_mia.setting import Setting

app = typer.Typer(
    help="Membership inference audits: whose data does a model give away?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Cache = Annotated[Optional[Path], typer.Option(help="Where models and answers are kept; default: $HF_HOME/hf_mia.")]
Out = Annotated[Optional[Path], typer.Option(help="The run folder; default: runs/NAME.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json on stdout instead of tables.")]
FIGURES = ("auc=", "accuracy=", "precision=", "recall=", "advantage=", "tpr@0.01=", "tpr@0.001=")


def figures(incomplete: str) -> list[str]:
    """What the shell completes a limit with."""
    return [name for name in FIGURES if name.startswith(incomplete)]


FailAbove = Annotated[
    Optional[list[str]],
    typer.Option(
        "--fail-above",
        metavar="FIGURE=NUMBER",
        help="Exit with 1 where the headline attack's estimate is above, such as tpr@0.01=0.05 or auc=0.6.",
        autocompletion=figures,
    ),
]


class Demo(StrEnum):
    """What a demo audits."""

    text = "text"
    encoder = "encoder"
    classifier = "classifier"


@app.command()
def audit(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as evaluation_configs/auditmi_next_word.yaml.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="FIELD=VALUE, such as target.epochs=5.")] = None,
    out: Out = None,
    cache: Cache = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long; do nothing.")
    ] = False,
    as_json: AsJson = False,
    fail_above: FailAbove = None,
) -> None:
    """Audit a model as a config describes it.

    Exit status: 0 done, 1 a leak above the limit of --fail-above, 2 bad input or a figure that cannot be told.
    """
    with errors():
        from hf_mia.config import override, read_yaml
        from hf_mia.experiment import experiment
        from hf_mia.gate import limit

        limits = [limit(text) for text in fail_above or []]
        described = experiment(override(read_yaml(config), overrides or []))
        if dry_run:
            from hf_mia.dry import describe

            typer.echo(describe(described, cache_folder(cache)))
        else:
            run(described, out or Path("runs") / config.stem, cache_folder(cache), as_json, limits)


@app.command()
def demo(
    what: Annotated[Demo, typer.Argument(help="A next-word model of docstrings, or an encoder of images.")] = Demo.text,
    out: Out = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Audit a small model trained here on data that is installed anyway: two to three minutes on two cores."""
    with errors():
        import torch

        from hf_mia.demo import DEMOS

        torch.set_num_threads(1)  # its matrices are so small that a second thread waits more than it works
        run(DEMOS[what.value], out or Path("runs") / ("demo" if what is Demo.text else "demo-encoder"),
            cache_folder(cache), as_json)  # fmt: skip


@app.command()
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

        from hf_mia.saved_cli import FPRS, Request, attacked, print_attacked, report_json, write

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


def card(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    model: Annotated[Optional[str], typer.Argument(help="A model's folder or README.md, or an id on the Hub.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Open a pull request on the Hub.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Write to the main branch on the Hub.")] = False,
) -> None:
    """Write an audit to a model's card, or print the section."""
    with errors():
        from hf_mia.card import section, write_card
        from hf_mia.hub import push_card
        from hf_mia.outcome import read_outcome

        outcome = read_outcome(folder)
        if (push or commit) and (model is None or (push and commit)):
            raise ValueError("--push opens a pull request, --commit writes to main: give one, and the model's id.")
        if model is None:
            typer.echo(section(outcome))
        elif push or commit:
            typer.echo(push_card(outcome, model, create_pr=push))
        else:
            typer.echo(f"Written to {write_card(Path(model), outcome)}.")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="A dataset's id on the Hub, such as org/name.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is public: it names the units.")] = False,
    pull_request: Annotated[bool, typer.Option("--pr", help="Open a pull request on a repository there is.")] = False,
) -> None:
    """Put a run folder on the Hub as a dataset, private unless told."""
    with errors():
        from hf_mia.hub import push_run

        typer.echo(push_run(folder, repository, private=not public, create_pr=pull_request))


@app.command("list")
def list_names() -> None:
    """The attacks and recipes that a config can name."""
    with errors():
        from hf_mia.papers import PAPERS
        from hf_mia.recipes.named import RECIPES

        for title, table in (("attacks", PAPERS), ("recipes", RECIPES)):
            typer.echo(f"{title}:")
            for name, value in table.items():
                typer.echo(f"  {name:24} {value!r}")


def run(described: Experiment, out: Path, cache: Path, as_json: bool, limits: Sequence[Limit] = ()) -> None:
    """Play an experiment; the first process writes the folder and prints, then says which limits were passed."""
    import json

    from accelerate import PartialState
    from rich.console import Console

    from hf_mia.folder import write_folder
    from hf_mia.gate import over
    from hf_mia.played import report_json
    from hf_mia.run import play
    from hf_mia.setting import setting
    from hf_mia.table import print_played

    quiet()
    prepared: Setting = setting(described)
    for limit in limits:
        limit.check(len(prepared.split.nonmembers))
    played = play(prepared, cache)
    if not PartialState().is_main_process:
        return
    write_folder(out, described, played)
    if as_json:
        typer.echo(json.dumps(report_json(described, played), allow_nan=False))
    else:
        print_played(described, played, Console(highlight=False))
        typer.echo(f"Written to {out}: report.json, figures, evidence, config.yaml.")
    if passed := over(limits, played.headline):
        typer.echo("\n".join(passed), err=True)
        raise typer.Exit(1)


def quiet() -> None:
    """One progress bar a job: those of the libraries below are off."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@contextmanager
def errors() -> Iterator[None]:
    """Bad input, a full disk and Ctrl-C end in one line that says what to do, not in a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped. What is done stays in the cache: run the same command to go on.", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError) as error:
        typer.echo(f"hf-mia: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
