"""The Space: name a vision encoder, add images, read a score for each of them."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from hf_mia.data.images import Images
from hf_mia.queries.inquiry import Inquiry, encoded, images_of


def scores(model: str, files: list[str] | None, attack: str) -> list[list[object]]:
    """Each image's score, the largest first; what is wrong with the input is shown to the user."""
    try:
        pool = images_of([encoded(file, place) for place, file in enumerate(files or [])])
        found = Inquiry(data=Images(), free="encodermi-t", model=model.strip(), attack=attack).scores(pool)
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error
    rows = zip(files or [], found.values(), strict=True)
    return sorted(([Path(file).name, score] for file, score in rows), key=lambda row: -row[1])


demo = gr.Interface(
    scores,
    [
        gr.Textbox("openai/clip-vit-base-patch32", label="Encoder on the Hub"),
        gr.File(file_count="multiple", file_types=["image"], type="filepath", label="Images"),
        gr.Dropdown(["encodermi-t", "encoder-similarity"], value="encodermi-t", label="Attack without a shadow"),
    ],
    gr.Dataframe(headers=["image", "score"], label="A larger score means more likely a member"),
    title="EncoderMI",
    description="Which images was a vision encoder trained on? A score is evidence, not proof: read it beside those of "
    "images that surely were not in. An audit with a shadow encoder is `hf-mia audit`.",
    flagging_mode="never",
    api_name="scores",
)

if __name__ == "__main__":
    demo.launch()
