"""The tab *Text*: were the texts of this user in the training set?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import gradio as gr

from hf_mia.app.asking import chosen, rate_of, told
from hf_mia.app.embedded import examples
from hf_mia.app.hub_model import Fetched
from hf_mia.app.limits import Jobs, Limits
from hf_mia.app.shelf import Shelf
from hf_mia.app.shown import answer_page, spoken
from hf_mia.progress import Check, on
from hf_mia.queries.query import user

NAMES = {"member": "Texts of a member", "outside": "Texts of somebody outside"}


def text_tab(shelf: Shelf, jobs: Jobs, limits: Limits) -> None:
    """The components and what they do; without a run about texts, one sentence."""
    titles = shelf.titles("text")
    if not titles:
        gr.Markdown("No audit of texts is here: start with `hf-mia demo app --run FOLDER`.")
        return
    gr.Markdown(
        "Paste the texts of **one user**, one a line. The audit's attack is asked how unusual they are among the users "
        "that are known to be no members."
    )
    fields = chosen(shelf, titles, "The model that was audited, and its run")
    pasted = _pasted(shelf, limits, titles[0])
    ask = gr.Button("Ask", variant="primary")
    shown = told()

    def asked(title: str, attack: str, texts: str, fpr: float | None) -> tuple[dict[str, object], str]:
        """Asks a run's attack about the texts of one user, one a line: the answer as JSON, then as a page of HTML."""
        return jobs.do(lambda check: _asked(shelf, limits, title, attack, texts, fpr, check))

    _hub(jobs, limits, pasted)
    ask.click(asked, [fields.title, fields.attack, pasted, fields.fpr], [shown.numbers, shown.page],
              api_name="ask_texts", concurrency_id="ask", show_progress_on=shown.page)  # fmt: skip


def _pasted(shelf: Shelf, limits: Limits, title: str) -> gr.Textbox:
    """The field for the texts, and a button for each example that a run brings along."""
    pasted = gr.Textbox(
        label="Texts of one user, one a line",
        lines=6,
        max_lines=12,
        info=f"At most {limits.texts} texts and {limits.characters:,} characters. They are not stored.",
    )
    with gr.Row():
        for name, content in examples(shelf.runs[title].folder).items():
            gr.Button(NAMES.get(name, name), size="sm").click(
                _giving(content), None, pasted, api_visibility="private", queue=False
            )
    return pasted


def _hub(jobs: Jobs, limits: Limits, pasted: gr.Textbox) -> None:
    """The ranks of the same texts' words by a model on the Hub; nothing where the Hub is out of reach."""
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        return
    fetched = Fetched()
    with gr.Accordion("A model on the Hub: the ranks of these words, and no verdict", open=False):
        name = gr.Textbox(label="Model", info="A language model's id, such as org/name, of at most a gigabyte")
        ranks = gr.Button("Show ranks")
        page = gr.HTML(label="Ranks", elem_classes="mia-answer")
        numbers = gr.JSON(label="Ranks as JSON", visible=False)

    def ranked(model: str, texts: str) -> tuple[list[dict[str, object]], str]:
        """Asks a model on the Hub for the rank of each word of texts, one a line: as JSON, then as a page of HTML."""
        return jobs.do(lambda check: _ranked(fetched, limits, model, texts, check))

    ranks.click(ranked, [name, pasted], [numbers, page], api_name="rank_words", concurrency_id="ask",
                show_progress_on=page)  # fmt: skip


def _ranked(
    fetched: Fetched, limits: Limits, model: str, texts: str, check: Check
) -> tuple[list[dict[str, object]], str]:
    answers = fetched.said(model, limits.texts_of(texts), check)
    shown = f"<p class='mia-note'>{answers[0].why}</p>{spoken(replace(answers[0], words=(), records=tuple(answers)))}"
    return [answer.to_dict() for answer in answers], shown


def _asked(
    shelf: Shelf, limits: Limits, title: str, attack: str, texts: str, fpr: float | None, check: Check = on
) -> tuple[dict[str, object], str]:
    rate = rate_of(fpr)
    found = limits.texts_of(texts)
    query = shelf.query(title, attack, "text", check)
    (answer,) = query.ask([user("you", found)], rate)
    about: dict[str, object] = {"audit": title, "target": query.run.name, "attack": query.name, "fpr": rate}
    return about | answer.to_dict(), answer_page(query, answer, rate)


def warm(shelf: Shelf, limits: Limits) -> None:
    """Ask the first run about texts once and draw the answer: no visitor waits for imports, weights and fonts."""
    for title in shelf.titles("text")[:1]:
        _asked(shelf, limits, title, shelf.attacks(title)[0], "the", 0.05)


def _giving(content: str) -> Callable[[], str]:
    return lambda: content
