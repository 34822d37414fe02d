"""What only a GPU can show: the CPU's answers, memory that does not suffice, half precision, quantized weights.

Skipped where there is none. Memory is made scarce by the share of it that torch lets this process have.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from accelerate import Accelerator

from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM
from hf_mia.core import Pool, audit
from hf_mia.models.alignment import repeatable
from hf_mia.models.language import language_model
from hf_mia.models.loading import Loading
from hf_mia.papers import PAPERS
from hf_mia.probes.augmentation import Augmentation
from hf_mia.probes.tokens import Tokens
from hf_mia.recipes import captured
from hf_mia.recipes.contrastive import Contrastive, MoCo, SimCLR
from hf_mia.recipes.language import Recurrent
from hf_mia.recipes.loop import Windows, fit
from hf_mia.recipes.pretraining import pretrain
from hf_mia.runner import Runner, answers_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

NAMES = ("token", "rank", "start", "logprob", "mean", "deviation")
MB = 2**20
Rows = list[dict[str, np.ndarray]]
World = Callable[[Path], worlds.World]

TRAINED: dict[str, World] = {
    "language": lambda folder: worlds.world(folder, users=16, epochs=3, shadows=1),
    "pairs": lambda folder: worlds.pair_world(folder, users=16, epochs=3, shadows=1),
    "simclr": lambda folder: worlds.image_world(folder, images=128, epochs=20),
    "moco": lambda folder: worlds.image_world(
        folder, 128, 20, name="moco", architecture="resnet18", splits=4, queue=32
    ),
    "classes": lambda folder: worlds.classes_world(folder, images=60, epochs=5),
    "convolutions": lambda folder: worlds.made(folder, _convolutions(folder)),
}


def _convolutions(folder: Path) -> dict[str, object]:
    path = worlds.write_images(folder / "images.parquet", worlds.noise(80, 3), label=[i % 3 for i in range(80)])
    given = worlds.classes_config(path, 60, 5)
    target = {"name": "image-classifier", "architecture": "resnet18", "width": 8, "size": 8, "epochs": 5, "batch": 16}
    return {**given, "target": target, "shadows": {"count": 2, "pool": "same"}}


@contextmanager
def memory(limit: int) -> Iterator[None]:
    """So many bytes of the GPU's memory, as far as torch hands it out, and no more."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()  # type: ignore[attr-defined]  # it lies within what was large before
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def asked(folder: Path, cache: Path, pool: Pool, tokens: int = 4096, loading: Loading | None = None) -> Rows:
    model = language_model(folder, None, loading or Loading())
    return list(worlds.each(Runner(cache, chunk=len(pool.records), tokens=tokens)(model, Tokens(), pool.records)))


def alike(found: Rows, expected: Rows, tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("tokens", [1, 4096])
def test_a_gpu_answers_as_the_cpu(gpt2_folder: Path, small_pool: Pool, tmp_path: Path, tokens: int) -> None:
    model = language_model(gpt2_folder)
    module = model.load().eval()
    expected = list(worlds.each(list(answers_of(module, model.collate, Tokens(), small_pool.records))))
    alike(asked(gpt2_folder, tmp_path, small_pool, tokens), expected, 1e-4)


def test_a_gpu_says_the_same_again_and_is_left_empty(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    once = asked(gpt2_folder, tmp_path / "once", small_pool)
    alike(asked(gpt2_folder, tmp_path / "again", small_pool), once, 0)
    assert torch.cuda.memory_allocated() <= before + 64 * MB  # cuBLAS keeps its workspace
    assert all(weights.device.type == "cpu" for weights in language_model(gpt2_folder).load().parameters())


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path: Path) -> None:
    """Logits of all texts at once are gigabytes, of which there is a quarter of one."""
    folder = worlds.tiny_gpt2(tmp_path, vocab_size=4000)
    pool = worlds.pool(1500, 5, seed=3)
    expected = asked(folder, tmp_path / "small", pool)
    with memory(256 * MB):
        torch.cuda.reset_peak_memory_stats()
        found = asked(folder, tmp_path / "large", pool, tokens=10**7)
        assert torch.cuda.max_memory_allocated() <= 256 * MB
    alike(found, expected, 1e-4)


def test_a_batch_that_does_not_fit_is_trained_in_pieces(tmp_path: Path) -> None:
    plan = Recurrent(epochs=2, batch=2048, learning_rate=0.02, optimizer="sgd", clip=5.0)
    examples = Windows(torch.randint(0, 4000, (4096, 17), generator=torch.Generator().manual_seed(0)))

    def trained(name: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = RecurrentForCausalLM(RecurrentConfig(4000, 16, 16, 0.0))
        (tmp_path / name).mkdir()
        fit(module, examples, plan, 1, tmp_path / name, Accelerator(), lambda done, total, note: None)
        return [weights.detach().cpu() for weights in module.parameters()]

    whole = trained("whole")
    torch.cuda.reset_peak_memory_stats()
    with memory(512 * MB):
        pieces = trained("pieces")
        assert torch.cuda.max_memory_allocated() <= 512 * MB
    for one, other in zip(pieces, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_model_that_does_not_fit_says_the_way_out(small_pool: Pool, tmp_path: Path) -> None:
    folder = worlds.tiny_gpt2(tmp_path, vocab_size=200_000, n_embd=256)  # 200 MB
    message = r"does not fit in the memory of cuda.*target\.device_map to auto.*target\.quantization"
    with memory(100 * MB), pytest.raises(RuntimeError, match=message):
        asked(folder, tmp_path / "cache", small_pool)
    asked(folder, tmp_path / "cache", small_pool)  # and the process goes on


def test_a_device_map_is_for_real(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    loading = Loading(device_map="auto")
    module = language_model(gpt2_folder, None, loading).load()
    assert all(weights.device.type == "cuda" for weights in module.parameters())
    alike(asked(gpt2_folder, tmp_path / "auto", small_pool, loading=loading),
          asked(gpt2_folder, tmp_path / "whole", small_pool), 1e-5)  # fmt: skip


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("quantization", "most"), [("8bit", 0.3), ("4bit", 3.0)])
def test_quantized_weights_answer_nearly_the_same(
    small_pool: Pool, tmp_path: Path, quantization: str, most: float
) -> None:
    folder = worlds.tiny_gpt2(tmp_path, n_embd=64, n_layer=2, initializer_range=0.2)
    plain = asked(folder, tmp_path / "plain", small_pool)
    loading = Loading(quantization=quantization)  # type: ignore[arg-type]
    found = asked(folder, tmp_path / "quantized", small_pool, loading=loading)
    one, other = (np.concatenate([row["logprob"] for row in rows]) for rows in (found, plain))
    assert 0 < np.abs(one - other).mean() < most
    assert np.corrcoef(one, other)[0, 1] > 0.9


@pytest.mark.parametrize("name", TRAINED)
def test_models_trained_again_are_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (sorted(TRAINED[name](tmp_path / place).cache.glob("models/*/*.safetensors")) for place in "ab")
    assert len(one) == len(other) > 1
    for first, second in zip(one, other, strict=True):
        assert first.parent.name == second.parent.name
        assert first.read_bytes() == second.read_bytes(), first


@pytest.mark.parametrize("kind", [MoCo, SimCLR])
def test_steps_that_are_captured_are_the_plain_ones(kind: type[Contrastive], tmp_path: Path) -> None:
    """Thirty steps, of which the first three are plain, against thirty plain ones."""
    plan = kind(width=8, batch=32, epochs=5, splits=4, **({"queue": 64} if kind is MoCo else {}))
    images = torch.randint(256, (200, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def trained(first: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        encoder = plan.module()
        with pytest.MonkeyPatch.context() as patched, repeatable():
            patched.setattr(captured, "FIRST", first)
            pretrain(plan.learner(encoder), encoder, images, plan, 1, tmp_path, Accelerator(), lambda *_: None)
        return [tensor.detach().cpu() for tensor in encoder.state_dict().values()]

    torch.manual_seed(0)
    start = list(plan.module().state_dict().values())
    found, plain = trained(3), trained(1000)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert max(float((one - other).abs().max()) for one, other in zip(plain, start, strict=True)) > 0.05


@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_finds_the_members_too(tmp_path: Path, compiled: bool) -> None:
    changes = {"precision": "bf16", "compile": compiled}
    world = worlds.image_world(tmp_path, images=worlds.OVERFITTED, epochs=800, **changes)
    scores = audit(PAPERS["encodermi-t"], world.target, world.shadows, world.ask, "encodermi-t")
    member, other = scores.scores[scores.member], scores.scores[~scores.member]
    assert (member[:, None] > other).mean() + (member[:, None] == other).mean() / 2 > 0.7


def test_views_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    images, numbers = torch.rand(64, 3, 32, 32, generator=generator), torch.rand(64, 29, generator=generator)
    draw = replace(Augmentation(), jittered=1.0)
    torch.testing.assert_close(draw(images.cuda(), numbers).cpu(), draw(images, numbers), rtol=0, atol=1e-4)
