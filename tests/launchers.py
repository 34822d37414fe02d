"""Launches of one audit by torchrun and accelerate, on one machine or on two, which are network namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from trials import Place, free_port

SCRIPT = Path(__file__).with_name("launched.py")
ELASTIC = (sys.executable, "-m", "torch.distributed.run")
NONE = ("none", "0")
Started = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Machine:
    """Where a launcher is started: what stands before its command, the network's name there, and its address."""

    before: tuple[str, ...] = ()
    interface: str = "lo"
    address: str = "127.0.0.1"

    def start(self, launcher: Sequence[str], place: Place, fault: Sequence[str] = NONE) -> Started:
        """Start an audit there; all that is said goes to the place's log."""
        for folder in (place.folder, place.log_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {"GLOO_SOCKET_IFNAME": self.interface, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [*self.before, *launcher, str(SCRIPT), *fault, *place.command]
        with place.log_file.open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def torchrun(place: Place, fault: Sequence[str] = NONE) -> Started:
    """Two processes on one machine."""
    return Machine().start((*ELASTIC, "--standalone", "--nproc_per_node", "2"), place, fault)


def accelerate(place: Place, fault: Sequence[str] = NONE) -> Started:
    """Two processes on one machine: the launcher for GPUs, which ACCELERATE_USE_CPU turns to processors."""
    options = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
    options += ("--dynamo_backend", "no", "--main_process_port", str(free_port()))
    return Machine().start((sys.executable, "-m", "accelerate.commands.launch", *options), place, fault)


def nodes(machines: Sequence[Machine], places: Sequence[Place], fault: Sequence[str] = NONE) -> list[Started]:
    """One process a machine, by as many torchruns as there are machines, which meet at the first one."""
    port, started = free_port(), []
    for number, (machine, place) in enumerate(zip(machines, places, strict=True)):
        launcher = [*ELASTIC, "--nnodes", str(len(machines)), "--nproc_per_node", "1", "--local_addr", machine.address]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{machines[0].address}:{port}", "--rdzv_id", "audit"]
        launcher += ["--rdzv_conf", f"is_host={int(number == 0)}"]
        started.append(machine.start(launcher, place, fault))
    return started


def ended(process: Started, limit: float) -> int | None:
    """The exit status of a launcher; None where it hung, and was killed."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def logged(place: Place, name: str) -> Place:
    """The same place with a log of its own: what a second machine says."""
    return replace(place, log_file=place.log_file.with_name(f"{place.log_file.stem}-{name}.log"))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def namespaces() -> Iterator[list[Machine]]:
    """Two machines on one wire: network namespaces with nothing but it; PermissionError where none can be made."""
    names = [f"hf-mia-{os.getpid()}-{i}" for i in range(2)]
    wires = [f"mia{os.getpid() % 10**7}{i}" for i in range(2)]
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", wires[0], "netns", names[0], "type", "veth", "peer", "name", wires[1], "netns", names[1])
            for i, (name, wire) in enumerate(zip(names, wires, strict=True)):
                _ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", wire)
                _ip("-n", name, "link", "set", wire, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            raise PermissionError(f"no network namespace can be made here: {error}") from error
        yield [
            Machine(("ip", "netns", "exec", name), wire, f"10.77.0.{i + 1}")
            for i, (name, wire) in enumerate(zip(names, wires, strict=True))
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def loopback() -> Iterator[list[Machine]]:
    """One machine twice: two launchers that meet as if they were apart."""
    yield [Machine(), Machine()]


@contextmanager
def wired() -> Iterator[tuple[str, list[Machine]]]:
    """Two machines, network namespaces where the system lets one make them, and what they are."""
    with ExitStack() as stack:
        try:
            wire, machines = "network namespaces", stack.enter_context(namespaces())
        except PermissionError:
            wire, machines = "loopback", stack.enter_context(loopback())
        yield wire, machines
