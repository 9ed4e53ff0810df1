"""Examines workloads with several processes, within a budget of images."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.crash import shim
from tests.crash.check import Counts
from tests.crash.images import LIMIT, combinations, own_lines, split
from tests.crash.shim import Event, Kind, read_trace
from tests.crash.worker import Answer, Task

AGAIN = 0.04
"""Share of the images whose recovery is crashed as well; each makes dozens more."""

DAMAGE = 2
"""Flipped bits for each operation."""

TEMPORARY_BUDGET = 6
"""Images of each moment in the making of a pool, before it has its name: nothing of them counts."""

MAX_FAILURES = 5
"""More of them are of no use."""


@dataclass
class Failure:
    """An image that was not recovered, and the command that shows it again."""

    workload: str
    seed: int
    case: str
    text: str

    @property
    def command(self) -> str:
        """Reproduces it, from the root of the checkout."""
        return f"python -m tests.crash reproduce {self.workload} {self.case!r} --seed {self.seed}"


@dataclass
class Outcome:
    """What came of one workload."""

    workload: str
    seed: int
    operations: int = 0
    points: int = 0
    exhausted: int = 0
    """Crash points of which every combination of lines was tried."""

    images: int = 0
    distinct: int = 0
    again: int = 0
    checked_before: int = 0
    checked_after: int = 0
    torn: int = 0
    damaged: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    identities: set[int] = field(default_factory=set)

    def add(self, counts: Counts) -> None:
        """Take in what a process counted."""
        self.identities.update(counts.identities)
        self.distinct = len(self.identities)
        for name in ("images", "again", "checked_before", "checked_after", "torn", "damaged"):
            setattr(self, name, getattr(self, name) + getattr(counts, name))


class Died(Exception):
    """A process of the checker died; says how."""


class Process:
    """One worker."""

    def __init__(self, directory: Path, own: Path, native: Path | None) -> None:
        own.mkdir()
        self._case = own / "case"
        self._errors = open(own / "errors", "w+b")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.worker", "check", str(directory), str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=shim.environment(native),
            cwd=shim.ROOT,
        )

    def ask(self, task: Task) -> Answer:
        """Have a task done. Raises Died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(task) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            told = self._errors.read().decode(errors="replace").strip()
            raise Died(f"the process died ({status}): {told[-1500:]}")
        return msgspec.json.decode(line, type=Answer)

    def case(self) -> str:
        """The image that was being judged last."""
        return self._case.read_text() if self._case.exists() else ""

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on tmpfs, where a file can stand for persistent memory; gone afterwards."""
    shared = Path("/dev/shm")
    parent = shared if shared.is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="mpaxos-crash-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def record(directory: Path, name: str, seed: int, native: Path | None) -> str | None:
    """Record a workload into `directory`; returns what went wrong, when something did."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.worker", "record", str(directory), name, str(seed)],
        capture_output=True,
        env=shim.environment(native),
        cwd=shim.ROOT,
        timeout=300,
        check=False,
    )
    if done.returncode == 0:
        return None
    text = done.stderr.decode(errors="replace").strip()
    return f"without any crash ({done.returncode}): {text[-1500:]}"


def deal(events: list[Event], budget: int) -> tuple[list[Task], int]:
    """The tasks of a workload for about `budget` images in all, and how many of its crash points
    they exhaust. Every crash point has the same share until it is exhausted."""
    own = own_lines(events)
    kinds = [event.kind for event in events]
    temporary = kinds.index(Kind.RENAME) if Kind.RENAME in kinds else 0
    totals = []
    for number, event in enumerate(events):
        total = combinations(event, split(event, events[number - 1] if number else None, own))
        totals.append(min(total, 2 * LIMIT, TEMPORARY_BUDGET if number < temporary else total))
    low, high = 4, 2 * LIMIT
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(total, middle) for total in totals) <= budget:
            low = middle
        else:
            high = middle - 1
    tasks, exhausted = [], 0
    for number, event in enumerate(events):
        total = combinations(event, split(event, events[number - 1] if number else None, own))
        share = TEMPORARY_BUDGET if number < temporary else low
        exhausted += total <= min(share, 2 * LIMIT)
        tasks.append(
            Task(number, share, AGAIN, DAMAGE if event.kind is Kind.MARK and event.mark else 0)
        )
    return tasks, exhausted


class Run:
    """One workload being examined by `jobs` processes."""

    def __init__(
        self, directory: Path, outcome: Outcome, native: Path | None, max_failures: int
    ) -> None:
        self.directory = directory
        self.outcome = outcome
        self.native = native
        self.max_failures = max_failures
        self._lock = threading.Lock()
        self._tasks: Iterator[Task] = iter(())

    def go(self, tasks: list[Task], jobs: int, progress: Callable[[int], None]) -> None:
        """Do the tasks; `progress` is called with the number of images after each."""
        self._tasks = iter(tasks)
        with ThreadPoolExecutor(jobs) as pool:
            for done in [pool.submit(self._serve, number, progress) for number in range(jobs)]:
                done.result()

    def _serve(self, number: int, progress: Callable[[int], None]) -> None:
        process: Process | None = None
        starts = 0
        try:
            while (task := self._next()) is not None:
                if process is None:
                    own = self.directory / f"worker-{number}-{starts}"
                    process = Process(self.directory, own, self.native)
                    starts += 1
                try:
                    answer = process.ask(task)
                except Died as died:
                    self._failed([(process.case() or f"{task.event} -", str(died))])
                    process.close()
                    process = None
                    continue
                with self._lock:
                    self.outcome.add(answer.counts)
                self._failed(answer.failures)
                progress(answer.counts.images)
        finally:
            if process is not None:
                process.close()

    def _next(self) -> Task | None:
        with self._lock:
            if len(self.outcome.failures) >= self.max_failures:
                return None
            return next(self._tasks, None)

    def _failed(self, failures: list[tuple[str, str]]) -> None:
        with self._lock:
            for case, text in failures:
                failure = Failure(self.outcome.workload, self.outcome.seed, case, text)
                self.outcome.failures.append(failure)


def examine(
    name: str,
    seed: int,
    budget: int,
    jobs: int,
    *,
    native: Path | None = None,
    max_failures: int = MAX_FAILURES,
    progress: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Examine workload `name` from `seed` with about `budget` images."""
    began = time.monotonic()
    outcome = Outcome(name, seed)
    with scratch() as directory:
        wrong = record(directory, name, seed, native)
        if wrong is not None:
            outcome.failures.append(Failure(name, seed, "0 -", wrong))
        else:
            events = read_trace(directory / "trace")
            tasks, outcome.exhausted = deal(events, budget)
            outcome.points = len(events)
            outcome.operations = max(event.mark for event in events)
            Run(directory, outcome, native, max_failures).go(tasks, jobs, progress)
    outcome.seconds = time.monotonic() - began
    return outcome


def reproduce(name: str, seed: int, case: str, keep: Path | None = None) -> str | None:
    """Examine one image again; returns what is wrong, or nothing when it is recovered."""
    with scratch() as directory:
        wrong = record(directory, name, seed, None)
        if wrong is not None:
            return wrong
        process = Process(directory, directory / "worker", None)
        try:
            answer = process.ask(Task(case=case, keep=None if keep is None else str(keep)))
        except Died as died:
            return str(died)
        finally:
            process.close()
    return answer.failures[0][1] if answer.failures else None
