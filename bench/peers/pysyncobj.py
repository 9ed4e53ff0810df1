"""PySyncObj, three nodes in DRAM; its clients live in the process of a node."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes import PeerFailed
from mpaxos.bench.load import RawHistogram, Workload
from mpaxos.bench.measure import Measurement, ServerUse
from mpaxos.bench.percentiles import summarise
from mpaxos.bench.usage import sample
from mpaxos.local import free_ports

NAME = "PySyncObj, three, in DRAM"
NODES = 3
TICK_MS = 5.0
"""Its batches are what arrives in a tick; 50 ms is the default, 5 ms the best of both worlds."""


def why_not() -> str | None:
    """None when it is installed."""
    if importlib.util.find_spec("pysyncobj") is None:
        return "not installed (pip install pysyncobj)"
    return None


class Nodes:
    """Three processes; `measure` puts a closed loop into the one that leads."""

    def __init__(self, tick_ms: float) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(NODES)]
        program = Path(__file__).with_name("pysyncobj_node.py")
        self._processes = []
        for own in addresses:
            partners = ",".join(other for other in addresses if other != own)
            # -P: beside the program lies a module of the same name as the library.
            words = [sys.executable, "-P", str(program), own, partners, str(tick_ms)]
            if shutil.which("setpriv"):
                words = ["setpriv", "--pdeathsig", "KILL", *words]
            self._processes.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            )

    def find_leader(self) -> int:
        """The node that leads. Raises PeerFailed."""
        said = [self._read(number)["leads"] for number in range(NODES)]
        if True not in said:
            raise PeerFailed("no node of PySyncObj leads")
        return said.index(True)

    def _read(self, number: int) -> dict[str, Any]:
        output = self._processes[number].stdout
        line = output.readline() if output is not None else ""
        if not line:
            raise PeerFailed(f"node {number} of PySyncObj ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def measure(self, leader: int, workload: Workload) -> Measurement:
        """A closed loop of puts in the leader's process."""
        order = {
            "outstanding": workload.connections * workload.depth,
            "size": workload.size,
            "keys": workload.keys,
            "warm_up": workload.warm_up,
            "duration": workload.duration,
        }
        others = [self._processes[n].pid for n in range(NODES) if n != leader]
        before = [sample(pid) for pid in others]
        pipe = self._processes[leader].stdin
        if pipe is None:
            raise PeerFailed("no way to node of PySyncObj")
        pipe.write(json.dumps(order) + "\n")
        pipe.flush()
        answer = self._read(leader)
        after = [sample(pid) for pid in others]
        span = workload.warm_up + workload.duration
        used = [
            (b.processor - a.processor) / span * workload.duration
            for a, b in zip(before, after, strict=True)
            if a is not None and b is not None
        ]
        return _measurement(workload, answer, used)

    def close(self) -> None:
        """End all of them."""
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _measurement(workload: Workload, answer: dict[str, Any], others: list[float]) -> Measurement:
    times = answer["times"]
    count = sum(n for _, n in times)
    histogram = RawHistogram(
        total=count,
        largest=1000 * max((t for t, _ in times), default=0),
        sum=1000.0 * sum(t * n for t, n in times),
        buckets=[(1000 * t, n) for t, n in times],
    )
    latency = summarise(histogram)

    def use(name: str, role: str, seconds: float) -> ServerUse:
        return ServerUse(
            name=name,
            role=role,
            share=seconds / workload.duration,
            per_request=seconds / max(1, count) * 1e6,
            minor_faults=0,
            major_faults=0,
            preemptions=0,
        )

    servers = [use("leader with client", "leader", answer["processor"])]
    servers += [use("node", "follower", seconds) for seconds in others]
    return Measurement(
        target=NAME,
        workload=workload,
        seconds=workload.duration,
        requests=count,
        throughput=count / workload.duration,
        latency=latency,
        reads=None,
        writes=latency,
        client_per_request=0.0,
        client_share=0.0,
        servers=servers,
        errors={"failed": answer["failed"]} if answer["failed"] else {},
    )


@contextlib.contextmanager
def started(tick_ms: float = TICK_MS) -> Iterator[tuple[Nodes, int]]:
    """The nodes, and which of them leads."""
    nodes = Nodes(tick_ms)
    try:
        yield nodes, nodes.find_leader()
    finally:
        nodes.close()
