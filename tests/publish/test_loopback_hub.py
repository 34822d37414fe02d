"""The loopback Hub is met as the libraries meet the real one: made, written to, listed, read."""

from __future__ import annotations

import json
from pathlib import Path

import hub


def test_models_and_datasets_go_up_and_come_down(tmp_path: Path, gpt2_folder: Path) -> None:
    code = f"""
import json
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer
api = HfApi()
model = AutoModelForCausalLM.from_pretrained({str(gpt2_folder)!r})
model.push_to_hub("org/tiny")
AutoTokenizer.from_pretrained({str(gpt2_folder)!r}).push_to_hub("org/tiny")
again = AutoModelForCausalLM.from_pretrained("org/tiny", use_safetensors=True)
same = all((a == b).all().item() for a, b in zip(model.parameters(), again.parameters()))
folder = snapshot_download("org/tiny")
Dataset.from_dict({{"text": ["one", "two"], "user": ["a", "b"]}}).push_to_hub("org/texts")
rows = load_dataset("org/texts", split="train")["text"][:]
api.create_repo("org/room", repo_type="space", space_sdk="gradio")
api.upload_file(path_or_fileobj=b"# here", path_in_repo="docs/README.md", repo_id="org/room", repo_type="space")
listed = sorted(api.list_repo_files("org/room", repo_type="space"))
print(json.dumps([same, rows, listed, len(AutoTokenizer.from_pretrained(folder))]))
"""
    with hub.serving() as served:
        same, rows, listed, words = json.loads(served.python(code, tmp_path).splitlines()[-1])
        assert served.repositories["spaces/org/room"].files["docs/README.md"] == b"# here"
    assert same
    assert rows == ["one", "two"]
    assert listed == ["docs/README.md"]
    assert words > 100
    assert any("model.safetensors" in request for request in served.requests)
