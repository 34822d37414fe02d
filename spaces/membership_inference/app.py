"""The Space: paste scores and membership, read the figures."""

from __future__ import annotations

import csv

import gradio as gr

from hf_mia.reports.membership import membership_inference

EXAMPLE = "0.9, 1\n0.8, 1\n0.4, 1\n0.7, 0\n0.3, 0\n0.2, 0\n0.1, 0"


def figures(pairs: str, fprs: str, threshold: float | None) -> list[list[object]]:
    """Each figure with the ends of its interval, as rows; what is wrong with the input is shown to the user."""
    try:
        rows = [row for row in csv.reader(pairs.splitlines()) if row]
        if strange := next((i for i, row in enumerate(rows, 1) if len(row) != 2), None):
            raise ValueError(f"line {strange} must be a score and 1 or 0, with a comma between them")
        scores, member = ([float(row[column]) for row in rows] for column in (0, 1))
        rates = [float(rate) for rate in fprs.split(",") if rate.strip()]
        found = membership_inference(scores, member, rates, threshold=threshold)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    names = [name for name in found if not name.endswith(("_low", "_high"))]
    return [[name, found[name], found.get(f"{name}_low"), found.get(f"{name}_high")] for name in names]


demo = gr.Interface(
    figures,
    [
        gr.Textbox(EXAMPLE, label="One unit a line: score, 1 for a member or 0", lines=10),
        gr.Textbox("0.25, 0.01", label="False-positive rates"),
        gr.Number(None, label="Threshold, chosen without these units (optional)"),
    ],
    gr.Dataframe(headers=["figure", "value", "low", "high"], label="Figures"),
    title="Membership Inference",
    description="How well an attack's scores tell training members from non-members, with 95 percent intervals.",
    flagging_mode="never",
    api_name="figures",
)

if __name__ == "__main__":
    demo.launch()
