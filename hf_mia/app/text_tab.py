"""The tab *Text*: were the texts of this user in the training set?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import gradio as gr

from hf_mia.app.embedded import examples
from hf_mia.app.hub_model import Fetched
from hf_mia.app.limits import Jobs, Limits
from hf_mia.app.shelf import Shelf
from hf_mia.app.shown import answer_page, spoken
from hf_mia.queries.query import user

HOW, FPR = "How its answers are judged", "The chance that a non-member is called a member"
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
    with gr.Row():
        title = gr.Dropdown(
            titles,
            value=titles[0],
            label="Audit",
            allow_custom_value=True,
            info="The model that was audited, and its run",
        )
        names = shelf.attacks(titles[0])
        attack = gr.Dropdown(names, value=names[0], label="Attack", allow_custom_value=True, info=HOW)
        fpr = gr.Number(0.05, label="False-positive rate", info=FPR)
    pasted = gr.Textbox(
        label="Texts of one user, one a line",
        lines=6,
        max_lines=12,
        info=f"At most {limits.texts} texts and {limits.characters:,} characters. They are not stored.",
    )
    with gr.Row():
        for name, content in examples(shelf.runs[titles[0]].folder).items():
            gr.Button(NAMES.get(name, name), size="sm").click(
                _giving(content), None, pasted, api_visibility="private", queue=False
            )
    ask = gr.Button("Ask", variant="primary")
    page = gr.HTML(label="Answer", elem_classes="mia-answer")
    with gr.Accordion("The answer as JSON", open=False):
        numbers = gr.JSON(label="Answer as JSON")

    def asked(title: str, attack: str, texts: str, fpr: float | None) -> tuple[dict[str, object], str]:
        """Asks a run's attack about the texts of one user, one a line: the answer as JSON, then as a page of HTML."""
        return jobs.do(lambda: _asked(shelf, limits, title, attack, texts, fpr))

    _hub(jobs, limits, pasted)
    title.change(
        lambda chosen: gr.Dropdown(found := shelf.attacks(chosen), value=found[0]), title, attack,
        api_visibility="private", queue=False,
    )  # fmt: skip
    ask.click(asked, [title, attack, pasted, fpr], [numbers, page], api_name="ask_texts", concurrency_id="ask",
              show_progress_on=page)  # fmt: skip


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
        return jobs.do(lambda: _ranked(fetched, limits, model, texts))

    ranks.click(ranked, [name, pasted], [numbers, page], api_name="rank_words", concurrency_id="ask",
                show_progress_on=page)  # fmt: skip


def _ranked(fetched: Fetched, limits: Limits, model: str, texts: str) -> tuple[list[dict[str, object]], str]:
    answers = fetched.said(model, limits.texts_of(texts))
    shown = f"<p class='mia-note'>{answers[0].why}</p>{spoken(replace(answers[0], words=(), records=tuple(answers)))}"
    return [answer.to_dict() for answer in answers], shown


def _asked(
    shelf: Shelf, limits: Limits, title: str, attack: str, texts: str, fpr: float | None
) -> tuple[dict[str, object], str]:
    rate = rate_of(fpr)
    found = limits.texts_of(texts)
    query = shelf.query(title, attack, "text")
    (answer,) = query.ask([user("you", found)], rate)
    told: dict[str, object] = {"audit": title, "target": query.run.name, "attack": query.name, "fpr": rate}
    return told | answer.to_dict(), answer_page(query, answer, rate)


def rate_of(fpr: float | None) -> float:
    """The false-positive rate of a field that may be empty; a ValueError for none."""
    if fpr is None:
        raise ValueError("the false-positive rate is empty: write five percent as 0.05.")
    return float(fpr)


def _giving(content: str) -> Callable[[], str]:
    return lambda: content
