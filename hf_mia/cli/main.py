"""The command line: `hf-mia demo`, `audit CONFIG`, `list` and `commands`. Results on stdout, progress on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from hf_mia.cli.commands import add
from hf_mia.console import AsJson, Cache, Out, errors, quiet
from hf_mia.launch.processes import joined, launched, part
from hf_mia.storage.keys import cache_folder

if TYPE_CHECKING:
    from hf_mia.audits.plan import Experiment
    from hf_mia.audits.setting import Setting
    from hf_mia.cli.gate import Limit

app = typer.Typer(
    help="Membership inference audits: whose data does a model give away?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
add(app)

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
Keep = Annotated[int, typer.Option(min=0, help="Megabytes of models that the run folder holds, for `hf-mia query`.")]


class Demo(StrEnum):
    """What a demo audits."""

    text = "text"
    translation = "translation"
    encoder = "encoder"
    classifier = "classifier"
    app = "app"


@app.command()
def audit(
    config: Annotated[
        Path, typer.Argument(help="A YAML file, or a run to repeat: its folder, or its dataset on the Hub.")
    ],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="FIELD=VALUE, such as target.epochs=5.")] = None,
    out: Out = None,
    cache: Cache = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long; do nothing.")
    ] = False,
    as_json: AsJson = False,
    fail_above: FailAbove = None,
    keep: Keep = 64,
) -> None:
    """Audit a model as a config describes it.

    Exit status: 0 done, 1 a leak above the limit of --fail-above, 2 bad input, a spent budget, a figure unknown,
    3 another process of the same launch failed.
    """
    with errors():
        if launched():
            joined()  # before anything can fail: the others hear of it
        from hf_mia.audits.experiment import experiment
        from hf_mia.cli.gate import limit
        from hf_mia.config import override, read_yaml
        from hf_mia.publish.hub import run_folder

        limits = [limit(text) for text in fail_above or []]
        place = run_folder(config)
        described = experiment(override(read_yaml(place / "config.yaml" if place.is_dir() else place), overrides or []))
        if dry_run:
            from hf_mia.audits.dry import describe

            typer.echo(describe(described, cache_folder(cache)))
        else:
            run(described, out or Path("runs") / config.stem, cache_folder(cache), as_json, limits, keep)


@app.command()
def demo(
    what: Annotated[
        Demo, typer.Argument(help="A next-word model, a translator, an encoder of images, a classifier; app: a page.")
    ] = Demo.text,
    out: Out = None,
    cache: Cache = None,
    as_json: AsJson = False,
    runs: Annotated[
        Optional[list[Path]], typer.Option("--run", help="app: a finished audit's folder to ask; again for more.")
    ] = None,
    port: Annotated[Optional[int], typer.Option(help="app: where it listens; default: the first free from 7860.")] = (
        None
    ),
) -> None:
    """Audit a small model trained here on data that is installed anyway: up to three minutes on two cores.

    `app` opens a page in the browser at which texts, images and scores are asked about.
    """
    with errors():
        if what is Demo.app:
            from hf_mia.app.blocks import start

            start(runs or (), cache_folder(cache), port=port)
            return
        import torch

        from hf_mia.audits.demo import DEMOS

        torch.set_num_threads(1)  # its matrices are so small that a second thread waits more than it works
        folder = out or Path("runs") / ("demo" if what is Demo.text else f"demo-{what.value}")
        run(DEMOS[what.value], folder, cache_folder(cache), as_json)


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


def run(
    described: Experiment, out: Path, cache: Path, as_json: bool, limits: Sequence[Limit] = (), megabytes: int = 64
) -> None:
    """Play an experiment; the first process writes the folder and prints, then says which limits were passed."""
    import json

    from accelerate import PartialState
    from rich.console import Console

    from hf_mia.audits.folder import replaced, write_folder
    from hf_mia.audits.played import report_json
    from hf_mia.audits.run import play
    from hf_mia.audits.setting import setting
    from hf_mia.audits.table import print_played
    from hf_mia.cli.gate import over
    from hf_mia.queries.calibration import calibrations, write_calibrations
    from hf_mia.queries.keeping import keep
    from hf_mia.runner import Runner
    from hf_mia.storage.keys import content_key
    from hf_mia.storage.locks import locked

    quiet()
    prepared: Setting = setting(described)
    for limit in limits:
        limit.check(len(prepared.split.nonmembers))
    played = play(prepared, cache)
    asked = calibrations(played, Runner(cache))
    part()
    if not PartialState().is_main_process:
        return
    name = content_key([str(out.resolve())])
    with locked(cache, [name], wait=True, doing=f"writing to {out}"), replaced(out) as place:
        write_folder(place, described, played)
        write_calibrations(place, asked)
        notes = keep(place, played.own, megabytes)
    for note in notes:
        typer.echo(note, err=True)
    if as_json:
        typer.echo(json.dumps(report_json(described, played), allow_nan=False))
    else:
        print_played(described, played, Console(highlight=False))
        typer.echo(f"Written to {out}: report.json, figures, evidence, config.yaml.")
    if passed := over(limits, played.headline):
        typer.echo("\n".join(passed), err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
