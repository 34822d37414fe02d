"""Audits in a real fine-tuning: what they find, what reporters hear, and that training does not notice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_mia.attacks.threshold import Threshold
from hf_mia.callback import MembershipAuditCallback, undisturbed
from hf_mia.core import Pool
from hf_mia.models.language import language_model
from hf_mia.papers import PAPERS
from hf_mia.runner import Runner, answers_of
from hf_mia.signals.encoder import MeanSimilarity

USERS = 24
STEPS = 12  # an epoch: 12 members of 2 texts, 2 a batch


@pytest.fixture(scope="module")
def candidates() -> Pool:
    return worlds.pool(USERS, 2, seed=5)


MEMBER = np.arange(USERS) % 2 == 0


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder: Path) -> PreTrainedTokenizerBase:
    made = AutoTokenizer.from_pretrained(gpt2_folder)
    made.pad_token = made.pad_token or made.eos_token
    return made


class Reporter(TrainerCallback):
    """What wandb or TensorBoard would hear, and at which step."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Mapping[str, float]]] = []

    def on_log(self, args: object, state: object, control: object, logs: Mapping[str, float], **kwargs: object) -> None:
        self.heard.append((state.global_step, dict(logs)))  # type: ignore[attr-defined]


def tiny(vocabulary: int) -> GPT2LMHeadModel:
    """A GPT-2 with dropout, so that training draws random numbers at every step."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=16, n_embd=32, n_layer=1, n_head=2))


def trainer(
    candidates: Pool,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    callbacks: list[TrainerCallback],
    model: PreTrainedModel | None = None,
    **changes: object,
) -> Trainer:
    rows = np.flatnonzero(MEMBER[candidates.unit])
    texts = candidates.records.select(rows)["text"]
    encoded = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"][:16] for text in texts]})
    given = {"num_train_epochs": 2, "logging_steps": 3, "learning_rate": 1e-2, **changes}
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, seed=1, **given,
    )  # fmt: skip
    return Trainer(
        model or tiny(len(tokenizer)), args, DataCollatorForLanguageModeling(tokenizer, mlm=False), encoded,
        eval_dataset=encoded, processing_class=tokenizer, callbacks=callbacks,
    )  # fmt: skip


def audit(candidates: Pool, **changes: object) -> MembershipAuditCallback:
    return MembershipAuditCallback(candidates, MEMBER, **{"fprs": (0.1,), **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(
    candidates: Pool, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MembershipAuditCallback, Trainer, Reporter]:
    """20 epochs, long enough to learn 24 texts by heart."""
    callback, reporter = audit(candidates), Reporter()
    made = trainer(
        candidates, tokenizer, tmp_path_factory.mktemp("trained"), [reporter], num_train_epochs=20, eval_strategy="no"
    )
    callback.attach(made)
    made.train()
    return callback, made, reporter


def test_the_leak_grows_from_chance_as_the_model_learns(
    trained: tuple[MembershipAuditCallback, Trainer, Reporter],
) -> None:
    callback, made, _ = trained
    assert [step for step, _ in callback.reports] == [STEPS * epoch for epoch in range(21)]
    first, last = callback.reports[0][1], callback.reports[-1][1]
    assert first.auc.low is not None
    assert first.auc.low < 0.5 < (first.auc.high or 0)
    assert (last.auc.value or 0) > 0.95
    assert last.units == callback.candidates.names
    assert made.state.global_step == 20 * STEPS


def test_reporters_hear_every_audit_as_plain_numbers(
    trained: tuple[MembershipAuditCallback, Trainer, Reporter],
) -> None:
    callback, made, reporter = trained
    heard = {step: logs for step, logs in reporter.heard if "mia/auc" in logs}
    kept = {row["step"]: row for row in made.state.log_history if "mia/auc" in row}
    assert list(heard) == list(kept) == [step for step, _ in callback.reports]
    for step, report in callback.reports:
        expected = {"mia/auc": report.auc.value, "mia/tpr@0.1": report.tpr_at(0.1).value}
        assert {name: value for name, value in heard[step].items() if name.startswith("mia/")} == expected
        assert {name: value for name, value in kept[step].items() if name.startswith("mia/")} == expected
        assert all(type(value) is float for value in expected.values())


def test_the_last_report_is_what_an_audit_of_the_saved_model_says(
    trained: tuple[MembershipAuditCallback, Trainer, Reporter], candidates: Pool, tmp_path: Path
) -> None:
    callback, made, _ = trained
    made.save_model(str(tmp_path / "model"))
    model, attack = language_model(tmp_path / "model"), PAPERS["mean-loss"]
    answers = Runner(tmp_path / "cache")(model, attack.signal.probe, candidates.records)
    features = attack.signal.read(answers, candidates)
    np.testing.assert_allclose(callback.reports[-1][1].scores, features[:, 0], rtol=1e-6)


@pytest.mark.parametrize("every", [None, 1, 5])
@pytest.mark.parametrize("attached", [True, False])
def test_training_is_bit_for_bit_what_it_is_without(
    candidates: Pool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, every: int | None, attached: bool
) -> None:
    def train(with_audits: bool) -> tuple[Trainer, list[dict[str, float]], tuple[object, ...]]:
        callback = audit(candidates, every=every)
        random.seed(2)
        np.random.seed(2)
        made = trainer(candidates, tokenizer, tmp_path, [callback] if with_audits and not attached else [])
        if with_audits and attached:
            callback.attach(made)
        made.train()
        assert not with_audits or len(callback.reports) > 2
        timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_tokens_per_second"}
        logs = [{n: v for n, v in row.items() if n not in timed} for row in made.state.log_history]
        drawn = random.random(), np.random.random(), torch.rand(1).item()
        return made, [row for row in logs if "mia/auc" not in row], drawn

    (one, logs, drawn), (other, audited, after) = train(False), train(True)
    assert logs == audited  # every loss, to the last bit, at the same step
    assert sum("loss" in row for row in logs) == 2 * STEPS // 3
    assert drawn == after
    weights = other.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in one.model.state_dict().items())
    assert one.state.global_step == other.state.global_step == 2 * STEPS


def test_every_part_goes_back_to_the_mode_it_was_in(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny(len(tokenizer)).train()
    model.transformer.h[0].mlp.eval()  # such as a part that is frozen
    before = {name: part.training for name, part in model.named_modules()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    def broken() -> None:
        with undisturbed(model):
            assert not any(part.training for part in model.modules())
            torch.rand(100)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert {name: part.training for name, part in model.named_modules()} == before
    assert torch.equal(torch.rand(2), expected)


def test_training_stops_where_too_many_are_found(
    candidates: Pool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    callback = audit(candidates, every=4, stop_above=0.5)
    made = trainer(candidates, tokenizer, tmp_path, [], num_train_epochs=40)
    callback.attach(made)
    made.train()
    found = {step: report.tpr_at(0.1).value or 0 for step, report in callback.reports}
    *others, last = [step for step in found if step > 0]
    assert found[last] > 0.5
    assert all(found[step] <= 0.5 for step in others)
    assert made.state.global_step == last < 40 * STEPS


def test_what_differs_before_training_stops_nothing(
    candidates: Pool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Members who are found by the model as it was are no reason to stop before the first audit of what it learnt."""
    callback = audit(candidates, fprs=(0.5,), stop_above=0.0)
    made = trainer(candidates, tokenizer, tmp_path, [], num_train_epochs=3)
    callback.attach(made)
    made.train()
    assert (callback.reports[0][1].tpr_at(0.5).value or 0) > 0
    assert [step for step, _ in callback.reports] == [0, STEPS]  # a whole epoch, and then no other


def test_logs_evaluations_and_audits_at_one_step_do_not_displace_each_other(
    candidates: Pool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    reporter = Reporter()
    made = trainer(candidates, tokenizer, tmp_path, [reporter], eval_strategy="steps", eval_steps=6)
    callback = audit(candidates, every=6).attach(made)
    assert callback.attach(made) is callback  # a second time adds nothing
    assert made.callback_handler.callbacks.count(callback) == 1
    made.train()
    for step in (6, 12, 18, 24):
        names = {name for at, logs in reporter.heard if at == step for name in logs}
        assert {"loss", "eval_loss", "mia/auc"} <= names
    assert len(callback.reports) == 5  # before the first step too, and the last one once


def test_a_rate_that_cannot_be_told_is_not_logged(
    candidates: Pool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    made = trainer(candidates, tokenizer, tmp_path, [], max_steps=1)
    audit(candidates, fprs=(0.1, 0.01)).attach(made)
    made.train()
    rows = [row for row in made.state.log_history if "mia/auc" in row]
    assert rows
    assert all("mia/tpr@0.1" in row and "mia/tpr@0.01" not in row for row in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": PAPERS["auditmi"]}, "takes shadows, and there are none while a model is trained"),
        ({"attack": PAPERS["reference"]}, "takes shadows"),
        ({"attack": Threshold(MeanSimilarity())}, "must ask a language model by Tokens"),
        ({"every": 0}, "every: must be at least 1 step, but is 0"),
        ({"stop_above": 0.5, "fprs": (0.01,)}, "12 non-members cannot resolve the first of fprs"),
        ({"stop_above": 0.5, "fprs": ()}, "cannot resolve the first of fprs"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    candidates: Pool, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        audit(candidates, **changes)


def test_membership_must_fit_the_candidates(candidates: Pool) -> None:
    with pytest.raises(ValueError, match="must be one value a score"):
        MembershipAuditCallback(candidates, MEMBER[1:])
    with pytest.raises(ValueError, match="at least 2 of each class"):
        MembershipAuditCallback(candidates, np.ones(USERS, dtype=bool))


def test_a_trainer_without_a_tokenizer_is_told_so(candidates: Pool, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="pass processing_class=tokenizer"):
        audit(candidates).report(tiny(len(tokenizer)), None)


def test_a_live_module_answers_as_the_runner_does(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    model, probe = language_model(gpt2_folder), PAPERS["mean-loss"].signal.probe
    kept = Runner(tmp_path, chunk=7)(model, probe, small_pool.records)
    live = answers_of(model.load(), model.collate, probe, small_pool.records, chunk=7)
    for one, other in zip(kept, live, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name].values, other[name].values)
            np.testing.assert_array_equal(one[name].offsets, other[name].offsets)
