"""A module is on the device while it is asked and off it after; what must not move stays; what memory says."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hf_mia.models.placing import Room, begins, kept, placed, scarce, stays, taken


class Recorded(torch.nn.Linear):
    """A layer that says where it was sent; devices that are not there are only named."""

    def __init__(self, full: bool = False) -> None:
        super().__init__(2, 2)
        self.sent: list[str] = []
        self.full = full

    def to(self, device: torch.device) -> Recorded:  # type: ignore[override]
        self.sent.append(str(device))
        if self.full and device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self


@contextmanager
def _ended() -> Iterator[None]:
    with pytest.raises(KeyError):
        yield


def test_a_module_leaves_the_device_when_it_is_done_or_fails() -> None:
    module, device = Recorded(), torch.device("meta")
    with placed(module, device, "m") as place:
        assert place == device
        assert module.sent == ["meta"]
    assert module.sent == ["meta", "cpu"]
    with _ended(), placed(module, device, "m"):
        raise KeyError
    assert module.sent == ["meta", "cpu", "meta", "cpu"]


def test_a_module_that_does_not_fit_says_the_way_out_and_is_taken_back() -> None:
    module = Recorded(full=True)
    message = r"model 'org/large' does not fit in the memory of meta.*target\.device_map to auto.*target\.quantization"
    with pytest.raises(RuntimeError, match=message), placed(module, torch.device("meta"), "org/large"):
        pytest.fail("it was asked")
    assert module.sent == ["meta", "cpu"]


def test_only_for_large_modules_all_objects_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than asking a small one, which a page does for every visitor."""
    looked: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: looked.append(1))
    for numbers, expected in ((2**20, 0), (2**25, 1)):
        module = torch.nn.Module()
        module.register_parameter("weights", torch.nn.Parameter(torch.empty(numbers)))
        with placed(module, torch.device("cpu"), "m"):
            assert looked == []
        assert len(looked) == expected


@pytest.mark.parametrize("mark", ["hf_device_map", "is_quantized", "is_loaded_in_8bit"])
@pytest.mark.parametrize("within", [False, True])
def test_what_is_spread_or_quantized_is_not_moved(mark: str, within: bool) -> None:
    inner = Recorded()
    module = torch.nn.Sequential(torch.nn.Sequential(inner)) if within else inner
    assert not stays(module)
    setattr(inner, mark, {"": "cpu"} if mark == "hf_device_map" else True)
    assert stays(module)
    with placed(module, torch.device("meta"), "m") as place:
        assert place == torch.device("cpu")  # where its weights are
    assert inner.sent == []


def test_a_part_stays_where_the_whole_does() -> None:
    whole, part = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    assert not stays(kept(whole, part))
    whole.hf_device_map = {"": "cpu"}  # type: ignore[assignment]
    assert kept(whole, part) is part
    assert stays(part)


def test_fractions_are_taken_in_the_dtype_of_the_weights() -> None:
    numbers = torch.tensor([1.0, 2.5])
    assert taken(torch.nn.Linear(1, 1), numbers) is numbers
    assert taken(torch.nn.Linear(1, 1, dtype=torch.bfloat16), numbers).dtype == torch.bfloat16
    assert taken(torch.nn.Identity(), numbers) is numbers


def test_a_module_begins_at_its_first_weights_in_memory() -> None:
    offloaded = torch.nn.Linear(1, 1, device="meta")
    assert begins(torch.nn.Sequential(offloaded, torch.nn.Linear(1, 1))) == torch.device("cpu")
    assert begins(torch.nn.Identity()) == torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("anything"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 4 GB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_does_not_suffice(error: Exception, expected: bool) -> None:
    assert scarce(error) is expected


def test_torch_says_so_itself() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert scarce(caught.value)


def test_room_shrinks_to_half_of_what_did_not_fit_and_never_grows() -> None:
    room = Room(4096)
    for tried, expected in ((1000, 500), (3000, 500), (400, 200), (1, 1)):
        room.shrink(tried)
        assert room.positions == expected
