"""Audits while a language model is fine-tuned: how well members can be told from others, step by step, in the logs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from transformers import TrainerCallback

from hf_mia.core import Attack, Booleans, Evidence, Pool, decide
from hf_mia.models.language import TextCollate, context
from hf_mia.papers import PAPERS
from hf_mia.probes.tokens import Tokens
from hf_mia.reports.estimates import checked, false_alarms
from hf_mia.reports.report import Report
from hf_mia.runner import answers_of

if TYPE_CHECKING:
    import torch
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )


@dataclass(eq=False)
class MembershipAuditCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Asks the model in training about units whose membership is known, by an attack that takes no shadows.

    candidates: a `Pool` of texts; member (units,): whether each unit is in the training set; every: how many steps lie
    between audits, None for the end of each epoch; fprs: the false-positive rates of the TPRs. There is an audit before
    the first step, which tells how far the candidates differ by themselves, and one at the end. `stop_above` ends the
    training where the TPR at the first of `fprs` is above it, from the first step on. `reports` holds (step, report).

    Training is bit for bit what it is without: the module is asked in eval mode, each part of it goes back to the mode
    it was in, and no random number is drawn. Each process of a launch asks by itself; a model that is split over
    processes is not supported. Use `attach`: a Trainer gives its callbacks no way to its reporters. One that is passed
    to `Trainer(callbacks=...)` writes to `state.log_history` only.

    ValueError where the attack takes shadows or asks about other records than texts, where `member` does not fit the
    pool, or where `stop_above` needs a rate that so few non-members cannot resolve.
    """

    candidates: Pool
    member: Booleans
    attack: Attack = field(default_factory=lambda: PAPERS["mean-loss"])
    every: int | None = None
    fprs: tuple[float, ...] = (0.01,)
    stop_above: float | None = None
    reports: list[tuple[int, Report]] = field(default_factory=list, init=False, repr=False)
    trainer: Trainer | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        names = self.candidates.names
        _, self.member = checked(np.zeros(len(names)), np.asarray(self.member), names, least=2)
        if self.attack.least > 0 or self.attack.compares:
            raise ValueError(
                f"attack: {self.attack} takes shadows, and there are none while a model is trained: take one that "
                "needs none, such as PAPERS['mean-loss']."
            )
        if not isinstance(self.attack.signal.probe, Tokens):
            raise ValueError(f"attack: must ask a language model by Tokens, not by {self.attack.signal.probe}.")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every: must be at least 1 step, but is {self.every}; None is the end of each epoch.")
        others = int((~self.member).sum())
        if self.stop_above is not None and (not self.fprs or false_alarms(self.fprs[0], others) == 0):
            raise ValueError(
                f"stop_above: {others} non-members cannot resolve the first of fprs = {self.fprs}: give more "
                "candidates, or a larger rate."
            )

    def attach(self, trainer: Trainer) -> MembershipAuditCallback:
        """Add this callback to a trainer, whose reporters then hear of every audit."""
        self.trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        self.reports.clear()
        return self._audit(state, control, kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        due = self.every is not None and state.global_step % self.every == 0
        return self._stopped(self._audit(state, control, kwargs)) if due else control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        return self._stopped(self._audit(state, control, kwargs)) if self.every is None else control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        done = self.reports[-1][0] == state.global_step
        return control if done else self._audit(state, control, kwargs)

    def _stopped(self, control: TrainerControl) -> TrainerControl:
        tpr = self.reports[-1][1].tpr_at(self.fprs[0]).value if self.stop_above is not None else None
        if tpr is not None and self.stop_above is not None and tpr > self.stop_above:
            control.should_training_stop = True
        return control

    def _audit(self, state: TrainerState, control: TrainerControl, given: dict[str, object]) -> TrainerControl:
        """One report, kept and logged; what the trainer was about to log, evaluate or save it still does."""
        report = self.report(
            cast("PreTrainedModel", given["model"]), cast("PreTrainedTokenizerBase | None", given["processing_class"])
        )
        self.reports.append((state.global_step, report))
        figures = {"auc": report.auc, **{f"tpr@{fpr}": report.tpr_at(fpr) for fpr in self.fprs}}
        logs = {f"mia/{name}": one.value for name, one in figures.items() if one.value is not None}
        if self.trainer is None:
            state.log_history.append({**logs, "epoch": state.epoch, "step": state.global_step})
            return control
        wanted = control.should_log
        self.trainer.log(logs)
        self.trainer.control.should_log = wanted  # which logging itself has set to False
        return self.trainer.control

    def report(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Report:
        """What the attack finds on the model as it is now; the model and all random states are left as they were."""
        if tokenizer is None:
            raise ValueError("Trainer: pass processing_class=tokenizer, by which the candidates' texts are read.")
        if model.config.is_encoder_decoder:
            raise ValueError(f"model: must be a causal language model, not {model.config.model_type}.")
        collate, signal = TextCollate(tokenizer, context(model.config)), self.attack.signal
        with undisturbed(model):
            answers = answers_of(model, collate, signal.probe, self.candidates.records)
            features = signal.read(answers, self.candidates)
        unknown = np.full(len(self.member), np.nan)
        evidence = Evidence(features, unknown, self.candidates.names, group=self.candidates.group)
        made = decide(self.attack, evidence, (), self.member.astype(np.float64))
        return replace(made, fprs=self.fprs)


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each part is in the mode, and each random generator in the state, it was in."""
    import torch

    modes = {part: part.training for part in model.modules()}
    devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"]
    states = random.getstate(), np.random.get_state()
    model.eval()
    try:
        with torch.random.fork_rng(sorted({device.index or 0 for device in devices})):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
