"""A checkpoint as a classifier of other classes: its weights, and where need be a head that has yet to learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from hf_mia.models.checkpoints import configuration
from hf_mia.models.logits import AUTO, UNREAD, Kind
from hf_mia.recipes.labels import labelled


def headed(folder: Path, name: str, kind: Kind, names: Sequence[str]) -> PreTrainedModel:
    """A saved model, float32, with a head for the classes `names`: its own if it has it, else as PyTorch draws it.

    ValueError where transformers makes no classifier of `kind` of it, or where weights before the head are missing.
    """
    config, auto = configuration(folder, name), AUTO[kind][0]
    if type(config) not in AUTO[kind][1]:
        raise ValueError(
            f"model {name!r} is a {config.model_type}, of which transformers makes no classifier of {kind}: name one "
            f"that {auto.__name__} knows."
        )
    own = same([str(config.id2label[number]) for number in range(config.num_labels)], names)
    config.id2label, config.label2id = labelled(names)["id2label"], labelled(names)["label2id"]
    config.problem_type = "single_label_classification"
    model, info = auto.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # those of the head may be; others are refused below, by name
    )
    missing, head = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}, head_of(model)
    if needed := sorted(key for key in missing - head if ".pooler." not in key and not key.endswith(UNREAD)):
        raise ValueError(
            f"model {name!r} lacks {len(needed)} of the weights that its config.json asks for, such as {needed[:3]}: "
            "random ones would stand in. Save the whole model again."
        )
    if not own and not head <= missing:
        fresh = auto.from_config(config, trust_remote_code=False).get_parameter
        with torch.no_grad():
            for key in head:
                model.get_parameter(key).copy_(fresh(key))
    return cast("PreTrainedModel", model)


def same(known: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a checkpoint's classes are those of the data, in their order; without names of their own, if as many."""
    theirs, ours = ([name.strip().casefold() for name in some] for some in (known, names))
    return theirs in (ours, [f"label_{number}" for number in range(len(ours))])


def head_of(model: PreTrainedModel) -> set[str]:
    """The names of the weights that a classifier has beside its base; where it has no base, of its last layer."""
    base = model.base_model
    if base is not model:
        inside = {id(parameter) for parameter in base.parameters()}
        return {name for name, parameter in model.named_parameters() if id(parameter) not in inside}
    names = [name for name, _ in model.named_parameters()]
    last = names[-1].rpartition(".")[0]
    return {name for name in names if name.rpartition(".")[0] == last}
