"""A cluster under load whose replicas are away in turn, and what it uses meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mpaxos.bench.cluster import find_in
from mpaxos.bench.load import Workload, drive
from mpaxos.local import LocalCluster

MIB = 1 << 20

ANONYMOUS = 400 * MIB
"""Memory of a replica beside its pool, at most: the interpreter, buffers, what a state transfer
keeps."""


class Plan(msgspec.Struct, frozen=True):
    """What to do."""

    commands: int
    pool: int
    """MiB of each replica's pool; an eighth of it is the log."""
    rounds: int
    """In each, a replica is away for the middle third."""
    connections: int = 50
    depth: int = 8
    size: int = 256


class Peaks(msgspec.Struct):
    """The most that any replica used. Bytes, but for `commands`, `transfers` and `seconds`."""

    commands: int = 0
    seconds: float = 0.0
    log_used: int = 0
    log_size: int = 0
    state_used: int = 0
    state_limit: int = 0
    anonymous: int = 0
    transfers: int = 0
    longest_stall: float = 0.0
    """Seconds without any answer to the load; replicas are killed meanwhile."""


class Soak:
    """One run."""

    def __init__(
        self, directory: Path, plan: Plan, tell: Callable[[Peaks], None] = lambda peaks: None
    ) -> None:
        self.plan = plan
        self.peaks = Peaks()
        self._tell = tell
        log = max(2 * MIB, plan.pool * MIB // 8)
        self.cluster = LocalCluster(
            directory,
            settings={
                "pool.size": str(plan.pool * MIB),
                "pool.log_size": str(log),
                "limits.max_batch": str(min(256 << 10, log // 64)),
                "limits.max_request": "65536",
                "limits.max_sessions": "1024",
                "limits.max_reply_slots": "16384",
            },
        )

    def run(self) -> Peaks:
        """All rounds; raises AssertionError when something grows or replicas differ."""
        plan, began = self.plan, time.monotonic()
        with self.cluster as cluster:
            cluster.initialise()
            cluster.start()
            cluster.wait_in_step()
            for number in range(plan.rounds):
                self._round(number)
                self.look()
                self.peaks.seconds = time.monotonic() - began
                self._tell(self.peaks)
            _, digests = cluster.digests()
            assert len(set(digests.values())) == 1, digests
            logs = [cluster.log(n, 1 << 24) for n in cluster.numbers]
            self.peaks.transfers = sum(log.count("switched to it") for log in logs)
        return self.peaks

    def _round(self, number: int) -> None:
        """A share of the commands, with one replica killed or frozen for a third of it."""
        plan, cluster = self.plan, self.cluster
        count = plan.commands // plan.rounds
        away = (cluster.leader() + 1 + number % 2) % 3
        frozen = number % 4 == 3
        workload = Workload(
            connections=plan.connections,
            depth=plan.depth,
            size=plan.size,
            keys=20_000,
            count=count,
            warm_up=0.0,
            duration=1.0,
            seed=number,
        )
        moves = iter([(count // 3, "away"), (2 * count // 3, "back")])
        due = next(moves)
        answered = threading.Event()

        def progress(answers: int) -> None:
            nonlocal due
            self.look()
            while due is not None and answers >= due[0]:
                self._move(away, due[1], frozen=frozen)
                due = next(moves, (1 << 62, ""))
            if answers >= count:
                answered.set()

        target = find_in(cluster, workload)
        report = drive(workload, target.addresses, on_progress=progress)
        assert not report.errors, report.errors
        if due[1] == "back" or frozen:
            self._move(away, "back", frozen=frozen)
        cluster.wait_in_step()
        self.peaks.commands += count
        stall = max((length for _, length in report.stalls), default=0) / 1e9
        self.peaks.longest_stall = max(self.peaks.longest_stall, stall)

    def _move(self, number: int, where: str, *, frozen: bool) -> None:
        cluster = self.cluster
        if where == "away":
            cluster.kill(number, sign=signal.SIGSTOP if frozen else signal.SIGKILL)
        elif frozen:
            cluster.kill(number, sign=signal.SIGCONT)
        else:
            cluster.start([number])

    def look(self) -> None:
        """Compare what every replica uses with its bounds."""
        peaks, plan = self.peaks, self.plan
        for number in self.cluster.numbers:
            if not self.cluster.is_running(number):
                continue
            used = anonymous(self.cluster.process(number).pid)
            peaks.anonymous = max(peaks.anonymous, used)
            assert used < ANONYMOUS, f"replica {number} uses {used >> 20} MiB beside its pool"
            file = self.cluster.config.directory(number) / "pool"
            assert os.stat(file).st_size == plan.pool * MIB
            status = self.cluster.status(number, timeout=0.3)
            if status is None:
                continue  # frozen, or on its way up
            pool = status["pool"]
            for name in ("log_used", "log_size", "state_used", "state_limit"):
                setattr(peaks, name, max(getattr(peaks, name), pool[name]))
            assert pool["log_used"] <= pool["log_size"]
            assert pool["state_used"] <= pool["state_limit"]


def anonymous(pid: int) -> int:
    """Bytes of a process' memory that are not of a file, so not of its pool; 0 if it has gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0
