"""Runs the native load generator: a workload in, what it saw out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mpaxos import _native
from mpaxos.errors import ConfigError, MpaxosError

PROGRAM = "mpaxos-load"

PROTOCOLS = ("native", "jpaxos", "echo", "redis", "zookeeper", "etcd")
DISTRIBUTIONS = ("uniform", "zipfian", "sequential")


class LoadFailed(MpaxosError):
    """The load generator could not do its work; the text says why."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the servers. Sizes in bytes, times in seconds."""

    protocol: str = "native"
    """native and jpaxos are those of mpaxos; the others are for comparisons."""
    machine: str = "kv"
    """How native requests are encoded: for the service `kv`, or as typed calls ("command")."""
    connections: int = 100
    depth: int = 1
    """Requests in flight per connection."""
    size: int = 128
    """Of a value."""
    keys: int = 1000
    reads: float = 0.0
    """Share of gets, 0 to 1."""
    distribution: str = "uniform"
    theta: float = 0.99
    """Skew of the zipfian distribution."""
    rate: float = 0.0
    """Requests per second of an open loop; 0: closed loop, the next request follows an answer."""
    duration: float = 10.0
    warm_up: float = 2.0
    count: int = 0
    """End after so many requests instead of after `duration`; 0: by time."""
    threads: int = 1
    """Of the load generator."""
    seed: int = 1
    create: bool = False
    """ZooKeeper: create the keys instead of setting them."""

    def check(self) -> None:
        """Raise ConfigError for what the load generator would refuse."""
        for name, known in (("protocol", PROTOCOLS), ("distribution", DISTRIBUTIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"--{name} {getattr(self, name)}: one of {', '.join(known)}")
        for name, low, high in (
            ("connections", 1, 100_000),
            ("depth", 1, 1024),
            ("size", 1, 1 << 30),
            ("keys", 1, 1 << 40),
            ("reads", 0, 1),
            ("threads", 1, 256),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"--{name} {getattr(self, name)}: from {low} to {high}")
        if self.duration <= 0 or self.warm_up < 0 or self.rate < 0:
            raise ConfigError("--duration must be above 0, --warm-up and --rate not below 0")
        if self.protocol == "jpaxos" and self.depth > 1:
            raise ConfigError("--depth: a JPaxos client has one request in flight")
        if self.threads > self.connections:
            raise ConfigError("--threads: at most one per connection")

    def words(self) -> list[str]:
        """The command line of the load generator, but for addresses."""
        words = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            text = str(int(value)) if isinstance(value, bool) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
        return words


class RawHistogram(msgspec.Struct, frozen=True):
    """Nanoseconds from when a request was sent (or due) to its answer."""

    total: int = 0
    largest: int = 0
    sum: float = 0.0
    buckets: list[tuple[int, int]] = []
    """(middle of a bucket, count), ascending; 0.1 % wide."""


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the load generator saw. Times in nanoseconds."""

    planned: int
    """Measured time; meaningless when the end was a count of requests."""
    until_last_answer: int
    refused: int
    """Requests that a replica could not take; they were sent again."""
    reconnections: int
    unanswered: int
    received: int
    written: int
    lag: int
    """Longest time by which an open loop was late in sending."""
    processor: int
    """Processor time of all its threads."""
    busiest: int
    """Of the busiest of them."""
    stalls: list[tuple[int, int]]
    """(since the beginning, length) of times over 10 ms without any answer."""
    errors: dict[str, int]
    reads: RawHistogram
    writes: RawHistogram
    began: int = 0
    """When the measured time began, on the clock of time.monotonic()."""
    series: list[int] = []
    """Answers in each interval of the measured time, if asked for."""


Progress = Callable[[int], None]
"""Told the number of answers so far, warm-up included."""

Finish = Callable[[], None]
"""Ends the measured time of a run; the report comes once all requests are answered."""


def find_program() -> Path:
    """The load generator. Raises ConfigError telling how to get it."""
    beside = Path(_native.__file__ or "").parent / PROGRAM
    source = Path(__file__).parent.parent / PROGRAM
    # In a checkout whose extension was built by hand it is where CMake put it.
    root = Path(__file__).parents[3]
    built = root.glob(f"build/*/{PROGRAM}") if (root / "CMakeLists.txt").exists() else iter(())
    newest = sorted(built, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (beside, source, *newest):
        if os.access(path, os.X_OK) and path.is_file():
            return path
    raise ConfigError(
        f"the load generator {PROGRAM} is not beside the extension ({beside.parent}): reinstall "
        "mpaxos, or in a checkout run: make setup"
    )


def drive(
    workload: Workload,
    addresses: list[str],
    *,
    on_measure: Callable[[], None] = lambda: None,
    on_measured: Callable[[], None] = lambda: None,
    on_progress: Progress = lambda answers: None,
    on_started: Callable[[Finish], None] = lambda finish: None,
    series: float = 0.0,
) -> LoadReport:
    """Put the load on the servers at `addresses` (connections are spread over them) and wait.

    The callbacks are called when warm-up is over, when the measured time is, and four times a
    second; `on_started` is given what ends the measured time before `duration`. With `series`
    the answers are counted in intervals of so many seconds. Raises LoadFailed, or ConfigError
    for a workload that makes no sense.
    """
    workload.check()
    words = [str(find_program()), *workload.words(), "--progress", "0.25", "--series", str(series)]
    for address in addresses:
        words += ["--address", address]
    report: LoadReport | None = None
    with _program(words) as process:
        on_started(lambda: process.send_signal(signal.SIGUSR1))
        if process.stdout is None:  # cannot be: it is a pipe
            raise LoadFailed("the load generator has no output")
        for line in process.stdout:
            event = _event(line)
            match event.get("event"):
                case "measure":
                    on_measure()
                case "measured":
                    on_measured()
                case "progress":
                    on_progress(int(event["answers"]))
                case "failure":
                    raise LoadFailed(f"the load generator gave up: {event['text']}")
                case "result":
                    report = msgspec.convert(event, LoadReport)
        code = process.wait()
    if report is None:
        raise LoadFailed(f"the load generator ended with status {code} and no result")
    return report


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        raise LoadFailed(f"the load generator printed {line[:200]!r}") from None
    if not isinstance(event, dict):
        raise LoadFailed(f"the load generator printed {line[:200]!r}")
    return event


@contextlib.contextmanager
def _program(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The program, in a session of its own so that Ctrl-C reaches only us, who then end it."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
