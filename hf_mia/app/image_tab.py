"""The tab *Image*: was this image in an encoder's training set?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from hf_mia.app.asking import Chosen, Told, attacks_of, chosen, rate_of, told
from hf_mia.app.embedded import IMAGE, Embedded, pictures
from hf_mia.app.limits import Jobs, Limits, refusal
from hf_mia.app.seen import checked_image, views_page
from hf_mia.app.shelf import Shelf
from hf_mia.app.shown import answer_page
from hf_mia.progress import Check
from hf_mia.queries.query import Unit

NAMES = {"member": "An image of the training set", "outside": "An image from outside"}


@dataclass(frozen=True)
class Tab:
    """The components: what is chosen, the upload, the examples' buttons, the button that asks, and the answer."""

    prepare: gr.Button
    fields: Chosen
    upload: gr.File
    buttons: Sequence[gr.Button]
    ask: gr.Button
    told: Told


def image_tab(shelf: Shelf, jobs: Jobs, limits: Limits, blocks: gr.Blocks, embedded: Embedded = IMAGE) -> None:
    """The components and what they do; where no run is about images, a button makes the embedded one first."""
    tab = _components(shelf, limits, embedded)
    _asking(shelf, jobs, limits, tab)
    _preparing(shelf, blocks, tab, embedded)


def _components(shelf: Shelf, limits: Limits, embedded: Embedded) -> Tab:
    titles = shelf.titles("image")
    gr.Markdown(
        f"Upload **an image**, of at most {limits.upload >> 20} MB and {limits.pixels // 10**6} million pixels. The "
        "encoder is shown random views of it: crops, shades. It finds the views of an image that it was trained on "
        "more alike than those of others (Liu et al. 2021)."
    )
    prepare = gr.Button(f"Prepare the audit “{embedded.title}”: a minute or two", visible=not titles)
    fields = chosen(shelf, titles, "The encoder that was audited, and its run")
    upload = gr.File(label="An image", file_types=["image"], type="filepath")
    with gr.Row():
        shows = bool(titles and pictures(shelf.runs[titles[0]].folder))
        buttons = [gr.Button(shown, size="sm", visible=shows) for shown in NAMES.values()]
    ask = gr.Button("Ask", variant="primary", interactive=bool(titles))
    return Tab(prepare, fields, upload, buttons, ask, told())


def _asking(shelf: Shelf, jobs: Jobs, limits: Limits, tab: Tab) -> None:
    """What the buttons do that ask."""
    inputs = [tab.fields.title, tab.fields.attack, tab.fields.fpr]
    outputs = [tab.told.numbers, tab.told.page]

    def asked(title: str, attack: str, image: str | None, fpr: float | None) -> tuple[dict[str, object], str]:
        """Asks a run's attack about an image file: the answer as JSON, then as a page of HTML."""

        def work(check: Check) -> tuple[dict[str, object], str]:
            content = checked_image(limits.content(image, "an image file"), limits)
            return _asked(shelf, title, attack, content, fpr, check)

        return jobs.do(work)

    tab.ask.click(asked, [*inputs[:2], tab.upload, inputs[2]], outputs, api_name="ask_image", concurrency_id="ask",
                  show_progress_on=tab.told.page)  # fmt: skip
    for name, button in zip(NAMES, tab.buttons, strict=True):
        button.click(_shown(shelf, jobs, name), inputs, outputs, api_visibility="private", concurrency_id="ask",
                     show_progress_on=tab.told.page)  # fmt: skip


def _preparing(shelf: Shelf, blocks: gr.Blocks, tab: Tab, embedded: Embedded) -> None:
    """What the button does that makes the embedded audit; whoever comes later finds it made."""
    changed = [tab.prepare, tab.fields.title, tab.fields.attack, tab.ask, *tab.buttons]

    def prepared(progress: gr.Progress = gr.Progress(track_tqdm=True)) -> list[object]:  # noqa: ARG001, B008
        """Trains the embedded encoder and its shadow, unless the cache has them, and audits it."""
        if embedded.title not in shelf.runs:
            shelf.add(embedded.title, embedded.build(shelf.cache))
        return ready()

    def ready() -> list[object]:
        """What the tab looks like once there is a run, whoever had it prepared; nothing changes before."""
        found = shelf.titles("image")
        if not found:
            return [gr.skip() for _ in changed]
        shows = bool(pictures(shelf.runs[found[0]].folder))
        return [gr.Button(visible=False), gr.Dropdown(found, value=found[0]), attacks_of(shelf, found[0]),
                gr.Button(interactive=True), *(gr.Button(visible=shows) for _ in tab.buttons)]  # fmt: skip

    blocks.load(ready, None, changed, api_visibility="private", queue=False)
    tab.prepare.click(prepared, None, changed, api_name="prepare_images",
                      concurrency_id="build", concurrency_limit=1, show_progress_on=tab.told.page)  # fmt: skip


def _shown(shelf: Shelf, jobs: Jobs, name: str) -> Callable[..., tuple[dict[str, object], str]]:
    """What a button does: it asks about an example of the audit."""

    def asked(title: str, attack: str, fpr: float | None) -> tuple[dict[str, object], str]:
        found = pictures(shelf.runs[title].folder) if title in shelf.runs else {}
        if name not in found:
            raise refusal("this audit brings no examples along: upload an image.")
        return jobs.do(lambda check: _asked(shelf, title, attack, Path(found[name]).read_bytes(), fpr, check))

    return asked


def _asked(
    shelf: Shelf, title: str, attack: str, image: bytes, fpr: float | None, check: Check
) -> tuple[dict[str, object], str]:
    rate = rate_of(fpr)
    query = shelf.query(title, attack, "image", check)
    (answer,) = query.ask([Unit("the image", ({"image": {"bytes": image, "path": None}},))], rate)
    about: dict[str, object] = {"audit": title, "target": query.run.name, "attack": query.name, "fpr": rate}
    return about | answer.to_dict(), answer_page(query, answer, rate) + views_page(query, image)
