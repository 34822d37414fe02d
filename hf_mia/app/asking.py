"""What the tabs that ask an audit have in common: which audit, attack and rate, and where the answer is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from hf_mia.app.shelf import Shelf

NARROW = 200  # pixels; fields that would be narrower stand below each other
HOW, FPR = "How its answers are judged", "The chance that a non-member is called a member"


@dataclass(frozen=True)
class Chosen:
    """The fields in which a visitor chooses an audit by its title, one of its attacks, and a false-positive rate."""

    title: gr.Dropdown
    attack: gr.Dropdown
    fpr: gr.Number


@dataclass(frozen=True)
class Told:
    """Where an answer is shown: as a page, and as JSON."""

    page: gr.HTML
    numbers: gr.JSON


def chosen(shelf: Shelf, titles: Sequence[str], info: str) -> Chosen:
    """The fields in a row, on the first of the titles, if there is one; another audit brings its own attacks."""
    names = shelf.attacks(titles[0]) if titles else []
    with gr.Row():
        title = gr.Dropdown(list(titles), value=titles[0] if titles else None, label="Audit", info=info,
                            allow_custom_value=True, min_width=NARROW)  # fmt: skip
        attack = gr.Dropdown(names, value=names[0] if names else None, label="Attack", info=HOW,
                             allow_custom_value=True, min_width=NARROW)  # fmt: skip
        fpr = gr.Number(0.05, label="False-positive rate", info=FPR, min_width=NARROW)
    title.change(lambda one: attacks_of(shelf, one), title, attack, api_visibility="private", queue=False)
    return Chosen(title, attack, fpr)


def attacks_of(shelf: Shelf, title: str | None) -> gr.Dropdown:
    """The list of an audit's attacks, on its first."""
    names = shelf.attacks(title) if title else []
    return gr.Dropdown(names, value=names[0] if names else None)


def told() -> Told:
    """The page, and under it the JSON, folded."""
    page = gr.HTML(label="Answer", elem_classes="mia-answer")
    with gr.Accordion("The answer as JSON", open=False):
        return Told(page, gr.JSON(label="Answer as JSON"))


def rate_of(fpr: float | None) -> float:
    """The false-positive rate of a field that may be empty; a ValueError for none."""
    if fpr is None:
        raise ValueError("the false-positive rate is empty: write five percent as 0.05.")
    return float(fpr)
