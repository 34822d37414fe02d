"""Lines between the processes of one launch: they wait for each other on them, and learn there that one is gone.

The first process has a line to each other one. A line is a TCP connection that its two ends keep as long as they live,
so a process that is killed is known at once, and a machine that is gone within half a minute; no process has to say
from time to time that it lives, and none has too little time to say it. On a line go JSON texts, one each.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from uuid import uuid4

STOPPED = 3  # the exit status of a process that ends because another one failed
GRACE = 5.0  # seconds in which who failed shall be the first to end, so that a launcher blames the right one
LIMIT = 60.0  # seconds to be connected in
NUMBER = 8  # digits of a process's number
IDLE, BETWEEN, TRIES = 10, 5, 4  # seconds of silence, seconds between questions and their number until a line is cut


@dataclass(frozen=True, eq=False)
class Lines:
    """One process's lines by the number of who is at the other end: the first one's to all, or one to the first."""

    number: int
    count: int
    ends: dict[int, socket.socket]
    heard: dict[int, SimpleQueue[object]] = field(default_factory=dict)
    left: threading.Event = field(default_factory=threading.Event)
    saying: threading.Lock = field(default_factory=threading.Lock)

    def listen(self) -> None:
        """Hear from now on what the others say; a child of this process does not hold the lines open."""
        for number, end in self.ends.items():
            self.heard[number] = SimpleQueue()
            threading.Thread(target=self._hear, args=(number, end), daemon=True).start()
        os.register_at_fork(after_in_child=self._close)

    def meet(self, word: object) -> list[object]:
        """Wait for every process, however long that takes; what each has said, in the order of their numbers."""
        if self.number:
            self._say("here", word)
            said = self.heard[0].get()
            return list(said) if isinstance(said, list) else []
        words = [word, *(self.heard[number].get() for number in sorted(self.ends))]
        self._say("here", words)
        return words

    def leave(self) -> None:
        """Say that this process has done its part; what befalls the others no longer matters to it."""
        if not self.left.is_set():
            self.left.set()
            self._say("done", None)

    def fail(self, text: str) -> None:
        """Say that this process ends, and why."""
        if not self.left.is_set():
            self.left.set()
            self._say("failed", f"process {self.number} of {self.count} on {socket.gethostname()} failed: {text}")

    def _say(self, kind: str, word: object) -> None:
        text = json.dumps([kind, word]).encode() + b"\n"
        with self.saying:
            for end in self.ends.values():
                with suppress(OSError):  # the other end is gone: that is heard
                    end.sendall(text)

    def _hear(self, number: int, end: socket.socket) -> None:
        with suppress(OSError, ValueError), end.makefile("rb") as texts:
            for text in texts:
                kind, word = json.loads(text)
                if kind == "done":
                    return
                if kind == "failed":
                    self._stop(str(word))
                self.heard[number].put(word)
        self._stop(f"process {number} of {self.count} ended without a word: it was killed, or its machine is gone")

    def _stop(self, text: str) -> None:
        """End this process from beside what it is doing; nothing on the disk is torn, for it is put there whole."""
        if self.left.is_set():
            return
        self.left.set()
        self._say("failed", text)
        print(f"\nhf-mia: {text}", file=sys.stderr, flush=True)
        print("What is done stays in the cache: run the same command to go on.", file=sys.stderr, flush=True)
        record(text)
        time.sleep(GRACE)
        os._exit(STOPPED)

    def _close(self) -> None:
        self.left.set()
        for end in self.ends.values():
            end.close()


def record(text: str) -> None:
    """Leave the error where torch's launcher, if there is one, looks for it and shows it at the end."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    with suppress(OSError):
        get_error_handler().record_exception(RuntimeError(text))


@dataclass(frozen=True)
class Place:
    """Where the first process is to be found: its addresses, the port, and the `word` that lets one in."""

    hosts: Sequence[str]
    port: int
    word: str


def opened(near: str) -> tuple[socket.socket, Place]:
    """The first process's door, and where it is as seen by who reaches `near`, the address that torch meets at."""
    door = socket.create_server(("", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        hosts = [near]
        with suppress(OSError):
            probe.connect((near, 9))  # sends nothing: it only says which of our addresses is on the way
            hosts.insert(0, probe.getsockname()[0])
    return door, Place(hosts, door.getsockname()[1], uuid4().hex)


def let_in(door: socket.socket, place: Place, count: int) -> Lines:
    """The first process's lines, once all others have come; TimeoutError after a minute without one of them."""
    ends: dict[int, socket.socket] = {}
    door.settimeout(LIMIT)
    with door:
        while len(ends) < count - 1:
            end, _ = door.accept()
            with suppress(OSError):
                end.settimeout(LIMIT / 6)
                said = _read(end, len(place.word) + NUMBER).decode(errors="replace")
                if said.startswith(place.word):
                    end.sendall(b"in")
                    ends[int(said.removeprefix(place.word))] = _kept(end)
                    continue
            end.close()  # a stranger
    return Lines(0, count, ends)


def called(place: Place, number: int, count: int) -> Lines:
    """Another process's line to the first; OSError where none of its addresses leads there."""
    problems = []
    for host in place.hosts:
        try:
            end = socket.create_connection((host, place.port), timeout=LIMIT / 6)
            end.sendall(place.word.encode() + str(number).zfill(NUMBER).encode())
            if _read(end, 2) == b"in":
                return Lines(number, count, {0: _kept(end)})
            problems.append(f"{host}: another program answers")
        except OSError as error:
            problems.append(f"{host}: {error}")
    raise OSError(
        f"process {number} cannot reach the first one at port {place.port} ({'; '.join(problems)}): let the machines "
        "connect to each other at all ports, and give an address that all of them reach as the rendezvous endpoint."
    )


def _read(end: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (part := end.recv(size - len(found))):
        found += part
    return found


def _kept(end: socket.socket) -> socket.socket:
    """The connection as it waits: without a limit, but cut where the machine at the other end does not answer."""
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, BETWEEN)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TRIES)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (IDLE + BETWEEN * TRIES))
    return end
