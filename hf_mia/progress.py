"""Progress bars on stderr, alike everywhere: tqdm, which notebooks and consoles both know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Check = Callable[[], None]  # asked between two steps: it raises where the work is to stop


def on() -> None:
    """The work goes on."""


@contextmanager
def bar(title: str, position: int = 0) -> Iterator[Callable[[int, int, str], None]]:
    """A bar that is moved by calling it with (done, total, note)."""
    from tqdm.auto import tqdm

    shown = tqdm(desc=title, position=position, leave=False, dynamic_ncols=True, unit="step")

    def move(done: int, total: int, note: str = "") -> None:
        shown.total = total
        shown.set_postfix_str(note, refresh=False)
        shown.update(done - shown.n)

    try:
        yield move
    finally:
        shown.close()
