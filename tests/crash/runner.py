"""Examines workloads with several processes, within a budget of images."""

from __future__ import annotations

import shutil
import signal
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

    of: Outcome
    case: str
    text: str

    @property
    def command(self) -> str:
        """Reproduces it, from the root of the checkout."""
        made = f"python -m tests.crash reproduce {self.of.workload} {self.case!r}"
        return f"{made} --seed {self.of.seed} --length {self.of.length:g}"


@dataclass
class Outcome:
    """What came of one workload."""

    workload: str
    seed: int
    length: float
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


def cause(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    if name == "SIGKILL":
        return "SIGKILL: from outside, or there was no memory left"
    return f"{name}: the recovery hangs" if name == "SIGALRM" else name


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
            raise Died(f"the process died ({cause(status)}): {told[-1500:]}")
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


def record(directory: Path, of: Outcome, native: Path | None) -> str | None:
    """Record a workload into `directory`; returns what went wrong, when something did."""
    words = ["record", str(directory), of.workload, str(of.seed), str(of.length)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.worker", *words],
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


@dataclass(frozen=True)
class Point:
    """A crash point: how many images exhaust it, and whether it is before a pool has its name."""

    total: int
    temporary: bool
    damage: bool

    def share(self, depth: int) -> int:
        """Images that it gets when others get `depth`."""
        return min(depth, TEMPORARY_BUDGET) if self.temporary else depth


def points(events: list[Event]) -> list[Point]:
    """The crash points of a recording."""
    own, before, made = own_lines(events), None, []
    kinds = [event.kind for event in events]
    named = kinds.index(Kind.RENAME) if Kind.RENAME in kinds else 0
    for number, event in enumerate(events):
        total = combinations(event, split(event, before, own))
        made.append(Point(total, number < named, event.kind is Kind.MARK and event.mark > 0))
        before = event
    return made


def depth_for(all_points: list[Point], budget: int) -> int:
    """The number of images of one crash point with which all together have about `budget`; at
    least a few, at most what exhausts twelve lines. A budget of 0 asks for the most."""
    low, high = 4, 2 * LIMIT
    while budget > 0 and low < high:
        middle = (low + high + 1) // 2
        if sum(min(point.total, point.share(middle)) for point in all_points) <= budget:
            low = middle
        else:
            high = middle - 1
    return high


class Run:
    """One recorded workload being examined."""

    def __init__(self, directory: Path, outcome: Outcome, options: Options) -> None:
        self.directory = directory
        self.outcome = outcome
        self.options = options
        self._lock = threading.Lock()
        self._tasks: Iterator[Task] = iter(())
        self._done = 0

    def go(self, tasks: list[Task], progress: Callable[[int], None]) -> None:
        """Do the tasks; `progress` is called with the number of crash points done."""
        self._tasks = iter(tasks)
        jobs = self.options.jobs
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
                    process = Process(self.directory, own, self.options.native)
                    starts += 1
                try:
                    answer = process.ask(task)
                except Died as died:
                    self._failed([(process.case() or f"{task.event} -", str(died))])
                    process.close()
                    process = None
                    continue
                self._failed(answer.failures)
                with self._lock:
                    self.outcome.add(answer.counts)
                    self._done += 1
                    progress(self._done)
        finally:
            if process is not None:
                process.close()

    def _next(self) -> Task | None:
        with self._lock:
            if len(self.outcome.failures) >= self.options.max_failures:
                return None
            return next(self._tasks, None)

    def _failed(self, failures: list[tuple[str, str]]) -> None:
        with self._lock:
            for case, text in failures:
                self.outcome.failures.append(Failure(self.outcome, case, text))


@dataclass(frozen=True)
class Options:
    """How much is examined, by whom."""

    budget: int
    """Images of all workloads together, without those of recoveries that are crashed again; 0: all
    combinations up to twelve lines at each crash point."""

    jobs: int
    length: float = 1.0
    """Of the workloads."""

    native: Path | None = None
    max_failures: int = MAX_FAILURES


def examine(
    names: list[str],
    seed: int,
    options: Options,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[Outcome]:
    """Examine workloads. `progress` is called with (workload, crash points done, of how many)."""
    with scratch() as directory:
        outcomes = [Outcome(name, seed, options.length) for name in names]
        for outcome in outcomes:
            (directory / outcome.workload).mkdir()

        def prepare(outcome: Outcome) -> list[Event]:
            where = directory / outcome.workload
            wrong = record(where, outcome, options.native)
            if wrong is None:
                return read_trace(where / "trace")
            outcome.failures.append(Failure(outcome, "0 -", wrong))
            return []

        with ThreadPoolExecutor(options.jobs) as pool:
            recorded = list(pool.map(prepare, outcomes))
        found = [points(events) for events in recorded]
        depth = depth_for([point for each in found for point in each], options.budget)
        for outcome, events, each in zip(outcomes, recorded, found, strict=True):
            if not events:
                continue
            began = time.monotonic()
            outcome.points = len(each)
            outcome.exhausted = sum(point.total <= point.share(depth) for point in each)
            outcome.operations = max(event.mark for event in events)
            tasks = [
                Task(number, point.share(depth), AGAIN, DAMAGE * point.damage)
                for number, point in enumerate(each)
            ]
            run = Run(directory / outcome.workload, outcome, options)
            run.go(tasks, lambda done, o=outcome: progress(o.workload, done, o.points))  # type: ignore[misc]
            outcome.seconds = time.monotonic() - began
    return outcomes


def reproduce(
    name: str, seed: int, length: float, case: str, keep: Path | None = None
) -> str | None:
    """Examine one image again; returns what is wrong, or nothing when it is recovered."""
    with scratch() as directory:
        wrong = record(directory, Outcome(name, seed, length), None)
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
