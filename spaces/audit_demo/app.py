"""The Space: ask the embedded audits about texts and images, and judge scores. `hf-mia demo app` is the same page."""

from __future__ import annotations

from hf_mia.app.blocks import start
from hf_mia.storage.keys import cache_folder

if __name__ == "__main__":
    start((), cache_folder(), host="0.0.0.0", port=7860)  # noqa: S104  a Space listens there
