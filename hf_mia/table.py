"""A played audit as tables on a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_mia.report import Report
from hf_mia.run import Played

if TYPE_CHECKING:
    from rich.console import Console


def print_played(played: Played, console: Console) -> None:
    """The attacks with their intervals, each sweep's table, the verdict and what it cannot tell."""
    from rich.table import Table

    members = int(played.control.member.sum())
    others = len(played.control.member) - members
    level = f"{100 * played.control.confidence:g} %"
    table = Table(title=f"{played.target.model.name}: {members} members, {others} non-members, {level} intervals")
    for column in ("attack", *played.control.summary(), "above blind", "verdict"):
        table.add_column(column, overflow="fold")
    for report in (*played.reports.values(), played.control):
        blind = report is played.control
        after = ("", "") if blind else (str(played.above_control(report)), played.verdict(report))
        table.add_row(report.name, *map(str, report.summary().values()), *after)
    console.print(table)
    for title, rows in played.sweeps.items():
        _print_sweep(title, rows, console)
    console.print(
        f"Verdict by {played.headline.name}, the first attack of the config: [bold]"
        f"{played.verdict(played.headline)}[/bold]. {_meaning(played)}"
    )


def _print_sweep(title: str, rows: Mapping[str, Sequence[Report]], console: Console) -> None:
    from rich.table import Table

    table = Table(title=title)
    reports = [report for row in rows.values() for report in row]
    for column in ("attack", *reports[0].summary()):
        table.add_column(column, overflow="fold")
    for report in reports:
        table.add_row(report.name, *map(str, report.summary().values()))
    console.print(table)


def _meaning(played: Played) -> str:
    if played.verdict(played.headline) == "leak":
        return (
            "Members can be told from non-members by what the model answers, better than chance and better than by "
            "their texts alone. This is evidence about the model, not proof about one user."
        )
    return (
        "The attack does not beat the blind control, which never asks the model: nothing is shown, neither a leak nor "
        "its absence."
    )
