"""The tab *About*: what the page can say, what it cannot, and what becomes of what visitors send."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from hf_mia.app.limits import Limits


def about(limits: Limits) -> str:
    """The text in Markdown, `about.md` with the limits put in."""
    words = {
        "texts": limits.texts,
        "characters": f"{limits.characters:,}",
        "megabytes": limits.upload >> 20,
        "rows": f"{limits.rows:,}",
        "pixels": limits.pixels // 10**6,
        "seconds": f"{limits.seconds:g}",
        "jobs": limits.jobs,
        "waiting": limits.waiting,
    }
    return Template(files("hf_mia.app").joinpath("about.md").read_text(encoding="utf-8")).substitute(words)
