"""The Space: name a language model, paste users' texts, read a score for each user."""

from __future__ import annotations

import gradio as gr

from hf_mia.data.texts import Texts
from hf_mia.queries.inquiry import Inquiry, texts_of

EXAMPLE = "Ann: The first text of Ann.\nAnn: Another text of hers.\nBob: A text that Bob wrote."


def scores(model: str, lines: str, attack: str) -> list[list[object]]:
    """Each user's score, the largest first; what is wrong with the input is shown to the user."""
    try:
        rows = [line.partition(":") for line in lines.splitlines() if line.strip()]
        if strange := next((i for i, row in enumerate(rows, 1) if not row[2].strip()), None):
            raise ValueError(f"line {strange} must be a user, a colon and a text")
        pool = texts_of([row[2].strip() for row in rows], [row[0].strip() for row in rows])
        found = Inquiry(data=Texts(), free="mean-rank", model=model.strip(), attack=attack).scores(pool)
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error
    return sorted(([name, score] for name, score in found.items()), key=lambda row: -row[1])


demo = gr.Interface(
    scores,
    [
        gr.Textbox("openai-community/gpt2", label="Model on the Hub"),
        gr.Textbox(EXAMPLE, label="One text a line: user, a colon, the text", lines=10),
        gr.Dropdown(["mean-rank", "mean-log-rank", "mean-loss"], value="mean-rank", label="Attack without shadows"),
    ],
    gr.Dataframe(headers=["user", "score"], label="A larger score means more likely a member"),
    title="AuditMI",
    description="Whose texts was a language model trained on? A score is evidence, not proof: read it beside those of "
    "users who surely were not in. An audit with shadow models is `hf-mia audit`.",
    flagging_mode="never",
    api_name="scores",
)

if __name__ == "__main__":
    demo.launch()
