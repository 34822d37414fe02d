"""The tab *Image*: was this image in an encoder's training set?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from hf_mia.app.embedded import IMAGE, pictures
from hf_mia.app.limits import Jobs, Limits, refusal
from hf_mia.app.seen import checked_image, views_page
from hf_mia.app.shelf import Shelf
from hf_mia.app.shown import answer_page
from hf_mia.app.text_tab import FPR, HOW, rate_of
from hf_mia.queries.query import Unit

NAMES = {"member": "An image of the training set", "outside": "An image from outside"}


def image_tab(shelf: Shelf, jobs: Jobs, limits: Limits, blocks: gr.Blocks) -> None:
    """The components and what they do; where no run is about images, a button makes the embedded one first."""
    titles = shelf.titles("image")
    gr.Markdown(
        "Upload **an image**. The encoder is shown random views of it: crops, shades. It finds the views of an image "
        "that it was trained on more alike than those of others (Liu et al. 2021)."
    )
    prepare = gr.Button(f"Prepare the audit “{IMAGE.title}”: a minute or two", visible=not titles)
    with gr.Row():
        names = shelf.attacks(titles[0]) if titles else []
        title = gr.Dropdown(titles, value=titles[0] if titles else None, label="Audit", allow_custom_value=True,
                            info="The encoder that was audited, and its run")  # fmt: skip
        attack = gr.Dropdown(
            names, value=names[0] if names else None, label="Attack", allow_custom_value=True, info=HOW
        )
        fpr = gr.Number(0.05, label="False-positive rate", info=FPR)
    upload = gr.File(label=f"An image, at most {limits.upload >> 20} MB and {limits.pixels // 10**6} million pixels",
                     file_types=["image"], type="filepath")  # fmt: skip
    with gr.Row():
        shows = bool(titles and pictures(shelf.runs[titles[0]].folder))
        buttons = [gr.Button(shown, size="sm", visible=shows) for shown in NAMES.values()]
    ask = gr.Button("Ask", variant="primary", interactive=bool(titles))
    page = gr.HTML(label="Answer", elem_classes="mia-answer")
    with gr.Accordion("The answer as JSON", open=False):
        numbers = gr.JSON(label="Answer as JSON")

    def asked(title: str, attack: str, image: str | None, fpr: float | None) -> tuple[dict[str, object], str]:
        """Asks a run's attack about an image file: the answer as JSON, then as a page of HTML."""
        return jobs.do(
            lambda: _asked(shelf, title, attack, checked_image(limits.content(image, "an image file"), limits), fpr)
        )

    def prepared(progress: gr.Progress = gr.Progress(track_tqdm=True)) -> list[object]:  # noqa: ARG001, B008
        """Trains the embedded encoder and its shadow, unless the cache has them, and audits it."""
        if IMAGE.title not in shelf.runs:
            shelf.add(IMAGE.title, IMAGE.build(shelf.cache))
        return ready()

    def ready() -> list[object]:
        """What the tab looks like once there is a run, whoever had it prepared; nothing changes before."""
        found = shelf.titles("image")
        if not found:
            return [gr.skip() for _ in changed]
        shows = bool(pictures(shelf.runs[found[0]].folder))
        return [gr.Button(visible=False), gr.Dropdown(found, value=found[0]), *_attacks(shelf, found[0]),
                gr.Button(interactive=True), *(gr.Button(visible=shows) for _ in buttons)]  # fmt: skip

    changed = [prepare, title, attack, ask, *buttons]
    blocks.load(ready, None, changed, api_visibility="private", queue=False)
    title.change(lambda chosen: _attacks(shelf, chosen), title, [attack], api_visibility="private", queue=False)
    inputs, outputs = [title, attack, fpr], [numbers, page]
    ask.click(asked, [title, attack, upload, fpr], outputs, api_name="ask_image", concurrency_id="ask",
              show_progress_on=page)  # fmt: skip
    for name, button in zip(NAMES, buttons, strict=True):
        button.click(_shown(shelf, jobs, name), inputs, outputs, api_visibility="private", concurrency_id="ask",
                     show_progress_on=page)  # fmt: skip
    prepare.click(prepared, None, changed, api_name="prepare_images",
                  concurrency_id="build", concurrency_limit=1, show_progress_on=page)  # fmt: skip


def _attacks(shelf: Shelf, title: str | None) -> list[object]:
    names = shelf.attacks(title) if title else []
    return [gr.Dropdown(names, value=names[0] if names else None)]


def _shown(shelf: Shelf, jobs: Jobs, name: str) -> Callable[..., tuple[dict[str, object], str]]:
    """What a button does: it asks about an example of the audit."""

    def asked(title: str, attack: str, fpr: float | None) -> tuple[dict[str, object], str]:
        found = pictures(shelf.runs[title].folder) if title in shelf.runs else {}
        if name not in found:
            raise refusal("this audit brings no examples along: upload an image.")
        return jobs.do(lambda: _asked(shelf, title, attack, Path(found[name]).read_bytes(), fpr))

    return asked


def _asked(shelf: Shelf, title: str, attack: str, image: bytes, fpr: float | None) -> tuple[dict[str, object], str]:
    rate = rate_of(fpr)
    query = shelf.query(title, attack, "image")
    (answer,) = query.ask([Unit("the image", ({"image": {"bytes": image, "path": None}},))], rate)
    told: dict[str, object] = {"audit": title, "target": query.run.name, "attack": query.name, "fpr": rate}
    return told | answer.to_dict(), answer_page(query, answer, rate) + views_page(query, image)
