"""The command line: `hf-mia demo`, `audit CONFIG`, `query RUN`, `list`. Results on stdout, progress on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
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
Keep = Annotated[int, typer.Option(min=0, help="Megabytes of models that the run folder holds, for `hf-mia query`.")]


class Demo(StrEnum):
    """What a demo audits."""

    text = "text"
    encoder = "encoder"


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
    keep: Keep = 64,
) -> None:
    """Audit a model as a config describes it."""
    with errors():
        from hf_mia.config import override, read_yaml
        from hf_mia.experiment import experiment

        described = experiment(override(read_yaml(config), overrides or []))
        if dry_run:
            from hf_mia.dry import describe

            typer.echo(describe(described, cache_folder(cache)))
        else:
            run(described, out or Path("runs") / config.stem, cache_folder(cache), as_json, keep)


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
def query(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished audit, such as runs/demo.")],
    text: Annotated[Optional[list[str]], typer.Option(help="A text; all that are given are one user's.")] = None,
    file: Annotated[
        Optional[Path], typer.Option(help="One user's texts, one a line (.txt), or users' (.jsonl, .parquet).")
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
    """Was this text, this user's data or this image in the training set? Asked of a finished audit's folder."""
    with errors():
        import json

        from rich.console import Console

        from hf_mia.opened import opened
        from hf_mia.query import query as fitted
        from hf_mia.query_cli import print_answers, to_json, units

        quiet()
        run = opened(folder)
        about = units(run.experiment.data, text or [], file, image or [])
        made = fitted(run, attack, model, cache_folder(cache))
        answers = made.ask(about, fpr)
        if as_json:
            typer.echo(json.dumps(to_json(made, answers, fpr), allow_nan=False))
        else:
            print_answers(made, answers, fpr, Console(highlight=False))


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


def run(described: Experiment, out: Path, cache: Path, as_json: bool, megabytes: int = 64) -> None:
    """Play an experiment; the first process writes the folder and prints."""
    import json

    from accelerate import PartialState
    from rich.console import Console

    from hf_mia.calibration import calibrations, write_calibrations
    from hf_mia.folder import write_folder
    from hf_mia.keeping import keep
    from hf_mia.played import report_json
    from hf_mia.run import play
    from hf_mia.runner import Runner
    from hf_mia.setting import setting
    from hf_mia.table import print_played

    quiet()
    prepared: Setting = setting(described)
    played = play(prepared, cache)
    asked = calibrations(played, Runner(cache))
    if not PartialState().is_main_process:
        return
    write_folder(out, described, played)
    write_calibrations(out, asked)
    for note in keep(out, played.own, megabytes):
        typer.echo(note, err=True)
    if as_json:
        typer.echo(json.dumps(report_json(described, played), allow_nan=False))
    else:
        print_played(played, Console(highlight=False))
        typer.echo(f"Written to {out}: report.json, figures, evidence, config.yaml.")


def cache_folder(given: Path | None) -> Path:
    """The folder given, or `hf_mia` in the Hugging Face home."""
    from huggingface_hub.constants import HF_HOME

    return given or Path(HF_HOME) / "hf_mia"


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
