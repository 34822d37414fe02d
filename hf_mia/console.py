"""What all commands share: options, one line for an error, and no progress bars but our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from hf_mia.launch.processes import failed
from hf_mia.services.terms import BudgetSpent

Cache = Annotated[Optional[Path], typer.Option(help="Where models and answers are kept; default: $HF_HOME/hf_mia.")]
Out = Annotated[Optional[Path], typer.Option(help="The run folder; default: runs/NAME.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json on stdout instead of tables.")]


def quiet() -> None:
    """One progress bar a job: those of the libraries below are off."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@contextmanager
def errors() -> Iterator[None]:
    """Bad input, a full disk, a spent budget and Ctrl-C end in one line that says what to do, not in a traceback."""
    try:
        yield
    except KeyboardInterrupt as stop:
        failed(stop)
        typer.echo("Stopped. What is done stays in the cache: run the same command to go on.", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, BudgetSpent) as error:
        failed(error)
        typer.echo(f"hf-mia: {error}", err=True)
        raise typer.Exit(2) from error
    except typer.Exit:
        raise
    except Exception as error:
        failed(error)
        raise
