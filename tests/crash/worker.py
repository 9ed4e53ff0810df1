"""A process under the preloaded library: records a workload, or judges images on demand.

    python -m tests.crash.worker record DIRECTORY NAME SEED LENGTH
    python -m tests.crash.worker check DIRECTORY OWN-DIRECTORY

`check` reads one Task per line and answers each with one Answer. Before each image its text goes
to the file `case` of its own directory: when the process dies, that is the image that killed it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.crash.check import Case, Checker, Counts, Wrong
from tests.crash.record import load, record
from tests.crash.shim import Shim

SECONDS = 60
"""An image that takes longer is a recovery that hangs: the process is killed, and it has failed."""


class Task(msgspec.Struct):
    """Judge about `budget` images of event `event`, or the one `case`."""

    event: int = 0
    budget: int = 0
    again: float = 0.0  # share of the images whose recovery is crashed as well
    damage: int = 0  # flipped bits
    case: str | None = None
    keep: str | None = None


class Answer(msgspec.Struct):
    """What came of a Task."""

    counts: Counts
    failures: list[tuple[str, str]]  # (case, what was wrong)
    seconds: float


class Worker:
    """Does one Task after the other."""

    def __init__(self, directory: Path, own: Path) -> None:
        recording = load(directory)
        self.seed = recording.told.seed
        self.checker = Checker(Shim(), own, recording)
        self._flight = os.open(own / "case", os.O_RDWR | os.O_CREAT, 0o600)
        self._failures: list[tuple[str, str]] = []

    def do(self, task: Task) -> Answer:
        """Judge the images; an image that fails does not end it."""
        began = time.monotonic()
        self.checker.counts = Counts()
        self._failures = []
        if task.case is not None:
            case = Case.parse(task.case)
            keep = Path(task.keep) if task.keep is not None else None
            self._try(case, lambda: self.checker.repeat(case, keep))
        else:
            self._event(task)
        return Answer(self.checker.counts, self._failures, time.monotonic() - began)

    def _event(self, task: Task) -> None:
        checker = self.checker
        rng = random.Random(f"{self.seed}:{task.event}")
        for case in checker.cases(task.event, task.budget, rng):
            # Of its own for each image: which process examined what before must not matter.
            own = random.Random(f"{self.seed}:{case}")
            if not self._try(case, lambda case=case, own=own: checker.judge(case, own)):  # type: ignore[misc]
                continue
            if not case.temporary and own.random() < task.again:
                for inner in checker.again(case, own):
                    self._try(inner, lambda inner=inner: checker.judge_again(inner))  # type: ignore[misc]
        for case in checker.damages(task.event, task.damage, rng) if task.damage else ():
            self._try(case, lambda case=case: checker.judge_damaged(case))  # type: ignore[misc]

    def _try(self, case: Case, judge: Callable[[], None]) -> bool:
        text = str(case).encode()
        os.pwrite(self._flight, text, 0)
        os.ftruncate(self._flight, len(text))
        signal.alarm(SECONDS)
        try:
            judge()
        except Wrong as wrong:
            self._failures.append((str(case), str(wrong)))
            return False
        finally:
            signal.alarm(0)
        return True


def main(arguments: list[str]) -> None:
    """See the top of the module."""
    if arguments[0] == "record":
        directory, name, seed, length = arguments[1:]
        record(Shim(), Path(directory), name, int(seed), float(length))
        return
    worker = Worker(Path(arguments[1]), Path(arguments[2]))
    for line in sys.stdin:
        answer = worker.do(msgspec.json.decode(line, type=Task))
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
