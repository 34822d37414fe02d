"""How long a visitor of the page waits, in Chromium: until it can be used, and for the first answer about a text.

The embedded run is made beforehand (`python tests/benchmarks/page.py [CACHE]`), then `hf-mia demo app` is started as
a user starts it, and asks itself once. Each visitor is a new one, without a cache; the first comes right after the
start. The bars are those of two idle cores, so the load and the processor time are told beside the seconds.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import numpy as np
import psutil
from measured import verdict
from playwright.sync_api import Browser, sync_playwright

from hf_mia.app.embedded import TEXT, examples
from hf_mia.storage.keys import cache_folder

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
VISITORS = 5
READY, ANSWER = 3.0, 2.0  # seconds
PATIENCE = 120_000  # milliseconds


@dataclass(frozen=True)
class Visit:
    """What one visitor waited for the page and for an answer, in seconds, and the processor time of each, of the server
    and of the browser."""

    ready: float
    answer: float
    ready_work: tuple[float, float]
    answer_work: tuple[float, float]


@contextmanager
def served(cache: Path, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The page's address and its process, once it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hf_mia", "demo", "app", "--port", str(port), "--cache", str(cache)]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
    began = time.perf_counter()
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as made:
        try:
            address = f"http://127.0.0.1:{port}/"
            while not answers(address):
                if made.poll() is not None:
                    raise SystemExit((folder / "log").read_text())
                time.sleep(0.1)
            print(f"the server listens {time.perf_counter() - began:.1f} s after its start")
            yield address, psutil.Process(made.pid)
        finally:
            made.terminate()


def answers(address: str) -> bool:
    try:
        urlopen(address, timeout=30).close()
    except OSError:
        return False
    return True


def work(processes: tuple[psutil.Process, psutil.Process]) -> tuple[float, float]:
    """Processor seconds so far of each process with its children."""
    found = []
    for process in processes:
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        found.append(sum(one.user + one.system for one in times))
    return found[0], found[1]


def visit(browser: Browser, address: str, text: str, processes: tuple[psutil.Process, psutil.Process]) -> Visit:
    """A new visitor opens the page and asks about a text."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    started, before = time.perf_counter(), work(processes)
    page.goto(address, wait_until="commit")
    page.wait_for_selector("textarea:visible:enabled")
    ready, between = time.perf_counter() - started, work(processes)
    page.get_by_label("Texts of one user, one a line").fill(text)
    started, then = time.perf_counter(), work(processes)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector(".mia-verdict:visible")
    answer, after = time.perf_counter() - started, work(processes)
    context.close()
    ready_work = between[0] - before[0], between[1] - before[1]
    return Visit(ready, answer, ready_work, (after[0] - then[0], after[1] - then[1]))


def main() -> int:
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else cache_folder()
    text = examples(TEXT.build(cache))["member"]
    with TemporaryDirectory() as folder, served(cache, Path(folder)) as (address, server), sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        own = next(one for one in psutil.Process().children(recursive=True) if "chrom" in one.name())
        visits = [visit(browser, address, text, (server, own)) for _ in range(VISITORS)]
        browser.close()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; processor seconds: server, browser")
    for number, one in enumerate(visits, 1):
        print(
            f"visitor {number}: page {one.ready:.2f} s ({one.ready_work[0]:.2f}, {one.ready_work[1]:.2f}), "
            f"answer {one.answer:.2f} s ({one.answer_work[0]:.2f}, {one.answer_work[1]:.2f})"
        )
    slow = verdict("page ready, seconds (median visitor)", float(np.median([one.ready for one in visits])), READY)
    return slow | verdict("first answer about texts, seconds", visits[0].answer, ANSWER)


if __name__ == "__main__":
    sys.exit(main())
