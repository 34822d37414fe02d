"""The Spaces: each loads by path, from a Hub, and offline; its card, its test cases and its page hold what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import evaluate
import hub
import pytest
import worlds
import yaml

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

SPACES = Path(__file__).parents[1] / "spaces"
METRICS = ["auditmi", "encodermi", "membership_inference"]
SECTIONS = ["Metric Description", "How to Use", "Limitations and Bias", "Citation"]
SUBSECTIONS = ["Inputs", "Output Values", "Examples"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.fixture(scope="module")
def encoder_folder(untrained_images: worlds.World) -> str:
    from hf_mia.audits.setting import jobs

    return str(jobs(untrained_images.setting)[0].folder(untrained_images.cache))


def module(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_{file}", SPACES / name / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("name", METRICS)
def test_a_space_holds_what_evaluate_and_the_hub_ask_for(name: str) -> None:
    folder = SPACES / name
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {"README.md", "app.py", "requirements.txt", "tests.py", f"{name}.py"}
    _, front, card = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    matter = yaml.safe_load(front)
    assert {"evaluate", "metric"} <= set(matter["tags"])
    assert (matter["sdk"], matter["python_version"], matter["app_file"]) == ("gradio", "3.12", "app.py")
    assert matter["title"]
    assert matter["description"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", matter["sdk_version"])
    assert re.findall(r"^## (.*)$", card, re.M) == SECTIONS
    assert re.findall(r"^### (.*)$", card, re.M) == SUBSECTIONS
    assert (folder / "requirements.txt").read_text().split() == ["hf_mia[evaluate]"]
    imports = re.findall(r"^(?:from|import) .*$", (folder / f"{name}.py").read_text(), re.M)
    assert len(imports) == 1


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_tells_of_itself(name: str) -> None:
    metric = evaluate.load(str(SPACES / name))
    matter = yaml.safe_load((SPACES / name / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1])
    assert (metric.module_type, metric.description) == ("metric", matter["description"])
    assert metric.inputs_description in str(metric.compute.__doc__)
    assert metric.citation.strip() in (SPACES / name / "README.md").read_text(encoding="utf-8")


def test_the_test_cases_hold(gpt2_folder: Path, encoder_folder: str, tmp_path: Path) -> None:
    models = {"auditmi": str(gpt2_folder), "encodermi": encoder_folder}
    for name in METRICS:
        asked = {"model_id": models[name], "cache": tmp_path} if name in models else {}
        cases = module(name, "tests").test_cases
        assert cases
        for case in cases:
            settings, expected = case.pop("settings", {}), case.pop("result")
            found = evaluate.load(str(SPACES / name)).compute(**case, **settings, **asked)
            assert all(
                found[key] == pytest.approx(value) for key, value in expected.items() if not isinstance(value, list)
            )
            assert all(found[key] == value for key, value in expected.items() if isinstance(value, list))


def test_the_examples_of_the_first_card_hold() -> None:
    card = (SPACES / "membership_inference" / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^(?:>>> |\.\.\. )(.*)$", card, re.M))
    assert code.count("\n") == 2
    metric = evaluate.load(str(SPACES / "membership_inference"))
    scores, member = [0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1], [1, 1, 1, 0, 0, 0, 0]
    found = metric.compute(predictions=scores, references=member, fpr=[0.25])
    assert f"({round(found['auc'], 4)}, {found['tpr@0.25']})" in card


CALL = "compute(predictions=[.9, .4, .5, .1], references=[1, 1, 0, 0])['auc']"


def test_a_metric_loads_by_relative_path_from_a_hub_and_offline(tmp_path: Path) -> None:
    with hub.serving() as served:
        served.add("spaces/org/membership_inference", SPACES / "membership_inference")
        served.add("spaces/org/auditmi", SPACES / "auditmi")
        code = f"""
import evaluate
print(evaluate.load("org/membership_inference").{CALL})
print(type(evaluate.load("org/auditmi")).__name__)
"""
        assert served.python(code, tmp_path).split() == ["0.75", "AuditMI"]
        fetched = {path.split("/")[-1] for path in served.requests if "/resolve/main/" in path}
        assert fetched == {"membership_inference.py", "auditmi.py"}
        count = len(served.requests)
        offline = f'import evaluate; print(evaluate.load("org/membership_inference").{CALL})'
        assert served.python(offline, tmp_path, HF_EVALUATE_OFFLINE="1", HF_HUB_OFFLINE="1").split() == ["0.75"]
        assert len(served.requests) == count
        (tmp_path / "spaces").symlink_to(SPACES)
        relative = f'import evaluate; print(evaluate.load("spaces/membership_inference").{CALL})'
        assert served.python(relative, tmp_path, HF_EVALUATE_OFFLINE="1", HF_HUB_OFFLINE="1").split() == ["0.75"]


SUITE = """
import evaluate
from datasets import Dataset
from evaluate.evaluation_suite import SubTask

DATA = Dataset.from_dict({{"text": {texts!r}, "member": {member!r}}})


class Suite(evaluate.EvaluationSuite):
    def __init__(self, name):
        super().__init__(name)
        calls = {{"metric": {space!r}, "input_column": "text", "label_column": "member"}}
        calls["label_mapping"] = {{"LABEL_0": 0.0, "LABEL_1": 1.0}}
        self.suite = [SubTask(task_type="text-classification", data=DATA, args_for_task=calls)]
"""


def test_an_evaluation_suite_takes_it(tmp_path: Path) -> None:
    """A classifier of texts that says who was in, by its path, judged by the metric; against transformers alone."""
    from transformers import GPT2Config, GPT2ForSequenceClassification, pipeline

    texts = [f"{one} {two}" for one in worlds.WORDS[:5] for two in worlds.WORDS[:4]]
    member = [float(i % 2) for i in range(len(texts))]
    folder = classifier(tmp_path / "model", GPT2Config, GPT2ForSequenceClassification)
    suite = tmp_path / "suite" / "suite.py"
    suite.parent.mkdir()
    space = str(SPACES / "membership_inference")
    suite.write_text(SUITE.format(texts=texts, member=member, space=space))
    code = f"""
import json
from evaluate import EvaluationSuite
found = EvaluationSuite.load({str(suite.parent)!r}).run({folder!r})[0]
print(json.dumps({{name: found[name] for name in ("auc", "n", "members")}}))
"""
    with hub.serving() as served:
        found = json.loads(served.python(code, tmp_path, HF_HUB_OFFLINE="1").splitlines()[-1])
    answers = [row["label"] == "LABEL_1" for row in pipeline("text-classification", model=folder)(texts)]
    inside, outside = ([a for a, m in zip(answers, member, strict=True) if m == side] for side in (1, 0))
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert 0 < sum(answers) < len(texts)
    assert found == {"auc": pytest.approx(sum(pairs) / len(pairs)), "n": 20, "members": 10}


def classifier(folder: Path, config: type, kind: type) -> str:
    """A tiny classifier whose random answers differ from text to text."""
    import torch

    from hf_mia.recipes.vocabulary import word_tokenizer

    tokenizer = word_tokenizer(iter(worlds.WORDS), 50)
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 16, "initializer_range": 1.0}
    kind(config(**sizes, vocab_size=len(tokenizer), pad_token_id=0)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# The pages, as a browser asks them


@pytest.fixture
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """A client of a Space's page, which runs on this machine."""
    import huggingface_hub.constants
    from gradio_client import Client

    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    demo = module(request.param, "app").demo
    _, url, _ = demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
    yield Client(url, verbose=False)
    demo.close()


def rows(found: dict[str, object]) -> dict[str, list[float]]:
    return {row[0]: row[1:] for row in found["data"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("asked", ["membership_inference"], indirect=True)
def test_the_page_of_scores(asked) -> None:
    found = rows(asked.predict("0.9, 1\n0.8, 1\n0.4, 1\n0.7, 0\n\n0.3, 0\n", "0.5", 0.4, api_name="/figures"))
    assert found["auc"][0] == pytest.approx(5 / 6)
    assert found["tpr@0.5"][0] == 1.0
    assert found["n"][0] == 5
    for text, message in (("0.9\n", "line 1 must be a score and 1 or 0"), ("a, 1", "'a'"), ("0.1, 1", "each class")):
        with pytest.raises(Exception, match=message):
            asked.predict(text, "0.5", None, api_name="/figures")


@pytest.mark.parametrize("asked", ["auditmi"], indirect=True)
def test_the_page_of_texts(asked, gpt2_folder: Path) -> None:
    found = rows(
        asked.predict(str(gpt2_folder), "Ann: w001 w002\nBob: w003: w004 w005\n", "mean-rank", api_name="/scores")
    )
    assert set(found) == {"Ann", "Bob"}
    assert all(score[0] <= 0 for score in found.values())  # ranks, negated
    for model, text, message in (("no/such/model", "Ann: a", "no/such/model"), (str(gpt2_folder), "Ann", "line 1")):
        with pytest.raises(Exception, match=message):
            asked.predict(model, text, "mean-rank", api_name="/scores")


@pytest.mark.parametrize("asked", ["encodermi"], indirect=True)
def test_the_page_of_images(asked, encoder_folder: str, tmp_path: Path) -> None:
    from gradio_client import handle_file

    for i, content in enumerate(worlds.noise(2, 0)):
        (tmp_path / f"{i}.png").write_bytes(content)
    files = [handle_file(str(tmp_path / f"{i}.png")) for i in range(2)]
    found = rows(asked.predict(encoder_folder, files, "encodermi-t", api_name="/scores"))
    assert set(found) == {"0.png", "1.png"}
    with pytest.raises(Exception, match="there are no images"):
        asked.predict(encoder_folder, [], "encodermi-t", api_name="/scores")
