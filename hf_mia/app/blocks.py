"""The page as Gradio blocks, and how it is served: `page(shelf).launch(...)` with the house's style and limits."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mia.app.limits import Jobs, Limits
from hf_mia.app.shelf import Shelf

if TYPE_CHECKING:
    import gradio as gr

    from hf_mia.app.embedded import Embedded

HEAD = "# Whose data does a model give away?\nMembership inference, asked of a finished audit: evidence, not proof."
FONTS, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # none is fetched from elsewhere
EDGE = {"width": "1px", "color": "*neutral_500"}  # of a field: white on white has no other
KEPT = 600  # seconds that an upload stays of which nobody asked


def filled(runs: Sequence[Path], cache: Path) -> Shelf:
    """The runs given, and the embedded audits: that of texts is built where none is given, that of images if it was."""
    from hf_mia.app.embedded import IMAGE, TEXT

    shelf = Shelf(cache)
    for folder in runs:
        name = folder.resolve().name
        shelf.add(name if name not in shelf.runs else str(folder), folder)
    if not shelf.titles("text"):
        shelf.add(TEXT.title, TEXT.build(cache))
    if IMAGE.ready(cache):
        shelf.add(IMAGE.title, IMAGE.folder(cache))
    return shelf


def page(shelf: Shelf, limits: Limits | None = None, image: Embedded | None = None) -> gr.Blocks:
    """The page as `gr.Blocks` with its queue: tabs Text, Image, Scores and About; `image` is what is made on demand."""
    import gradio as gr

    from hf_mia.app.about import about
    from hf_mia.app.embedded import IMAGE
    from hf_mia.app.image_tab import image_tab
    from hf_mia.app.score_tab import score_tab
    from hf_mia.app.text_tab import text_tab

    limits = limits or Limits()
    jobs = Jobs(limits)
    with gr.Blocks(title="hf_mia: whose data?", analytics_enabled=False, delete_cache=(KEPT // 10, KEPT)) as blocks:
        gr.Markdown(HEAD)
        with gr.Tab("Text"):
            text_tab(shelf, jobs, limits)
        with gr.Tab("Image"):
            image_tab(shelf, jobs, limits, blocks, image or IMAGE)
        with gr.Tab("Scores"):
            score_tab(jobs, limits)
        with gr.Tab("About"):
            gr.Markdown(about(limits))
    return blocks.queue(max_size=limits.waiting, default_concurrency_limit=limits.jobs)


def start(
    runs: Sequence[Path], cache: Path, host: str = "127.0.0.1", port: int | None = None, limits: Limits | None = None
) -> None:
    """Opens the runs, builds what is missing, and serves the page until Ctrl-C or SIGTERM.

    Uploads are in a temporary folder of this process, which is removed at the end. ValueError for a folder that is no
    run, and where Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio, which is not installed: pip install 'hf_mia[app]'.")
    import torch

    from hf_mia.app.text_tab import warm
    from hf_mia.console import quiet

    quiet()
    torch.set_num_threads(1)  # two small questions at once are faster than one on two threads
    limits = limits or Limits()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container is stopped so: it ends as by Ctrl-C
    with tempfile.TemporaryDirectory(prefix="hf_mia-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        shelf = filled(runs, cache)
        warm(shelf, limits)
        launched(page(shelf, limits), limits, host, port)


def launched(blocks: gr.Blocks, limits: Limits, host: str, port: int | None, wait: bool = True) -> str:
    """Launches blocks with style and limits; the address. Without `wait` the server goes on in a thread."""
    _, url, _ = blocks.launch(
        server_name=host, server_port=port, theme=theme(), css=style(), max_file_size=limits.upload,
        prevent_thread_lock=not wait, footer_links=["api"], quiet=not wait, run_history=False,
    )  # fmt: skip
    return str(url)


def theme() -> gr.themes.Soft:
    """Gradio's soft theme with fonts of the visitor's own machine, and text that contrasts enough in light and dark."""
    import gradio as gr

    text = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    text |= {f"{name}_dark": "*neutral_300" for name in text}
    fill = {f"button_primary_background_fill{end}": "*primary_600" for end in ("", "_dark")}
    hover = {f"button_primary_background_fill_hover{end}": "*primary_700" for end in ("", "_dark")}
    edge = {f"input_border_{what}{end}": to for what, to in EDGE.items() for end in ("", "_dark")}
    return gr.themes.Soft(font=FONTS, font_mono=MONO).set(**text, **fill, **hover, **edge)


def style() -> str:
    """The style sheet."""
    return files("hf_mia.app").joinpath("style.css").read_text(encoding="utf-8")
