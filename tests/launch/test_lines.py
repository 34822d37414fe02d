"""Lines between processes: all meet, each hears all, strangers are not let in, and who cannot come is told why."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from hf_mia.launch.lines import Lines, Place, called, let_in, opened


@contextmanager
def connected(count: int) -> Iterator[list[Lines]]:
    """The lines of so many processes, all of them here."""
    door, place = opened("127.0.0.1")
    with ThreadPoolExecutor(count) as pool:
        first = pool.submit(let_in, door, place, count)
        others = [pool.submit(called, place, number, count) for number in range(1, count)]
        lines = [future.result(60) for future in (first, *others)]
    for one in lines:
        one.listen()
    yield lines
    for one in lines:
        one.leave()


def test_each_hears_what_all_have_said_in_order() -> None:
    with connected(4) as lines, ThreadPoolExecutor(4) as pool:
        for turn in range(5):
            words = [[f"{turn} of {number}", "with\nlines"] for number in range(4)]
            said = [pool.submit(one.meet, word) for one, word in reversed(list(zip(lines, words, strict=True)))]
            assert [future.result(60) for future in said] == [words] * 4


def test_nobody_leaves_before_the_last_has_come() -> None:
    with connected(3) as lines, ThreadPoolExecutor(3) as pool:
        early = [pool.submit(one.meet, None) for one in lines[:2]]
        assert not any(future.done() for future in early)
        lines[2].meet(None)
        assert [future.result(60) for future in early] == [[None] * 3] * 2


def test_a_stranger_is_not_let_in() -> None:
    door, place = opened("127.0.0.1")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(let_in, door, place, 2)
        with socket.create_connection(("127.0.0.1", place.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: somewhere.example.org\r\n\r\n")
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        called(place, 1, 2)
        assert list(first.result(60).ends) == [1]


def test_who_cannot_reach_the_first_says_where_it_looked() -> None:
    door, place = opened("127.0.0.1")
    door.close()
    with pytest.raises(OSError, match=rf"process 1 cannot reach the first one at port {place.port} \(127\.0\.0\.1: "):
        called(Place(["127.0.0.1"], place.port, place.word), 1, 2)
