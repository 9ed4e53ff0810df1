"""A busy machine must not cost a leader its place: full load, and a process that only computes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.recovery.faults import Say
from bench.recovery.load import FOR_EVER, BackgroundLoad
from bench.recovery.settings import SETTINGS, filled, workload
from mpaxos.config.values import MIB

CONNECTIONS = 500

_LOOK = 0.2
"""Seconds between looks at the ballots; each change raises them, so none is missed for good."""

_HOG = (
    "import ctypes, signal\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)\n"  # it ends with us
    "while True: pass\n"
)


class Steady(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    minutes: float
    connections: int
    changes: int
    """Changes of the ballot; the aim is 0."""
    throughput: float
    stall: float
    """Longest interval without a single answer, in seconds."""


def steady(minutes: float, parent: Path | None, say: Say) -> Steady:
    """Full load beside a hog for so long. Raises MpaxosError."""
    asked = workload(10 * MIB, CONNECTIONS)
    with filled(SETTINGS["pmem+persistent"], asked, parent) as cluster, _hog():
        # The first election may still be going on while the cluster starts; from here on, none.
        cluster.wait_in_step()
        load = BackgroundLoad(
            msgspec.structs.replace(asked, duration=FOR_EVER), cluster.config.client_addresses()
        )
        seen: list[str] = []
        began = told = time.monotonic()
        try:
            while time.monotonic() - began < 60 * minutes or not seen:
                load.wait(_LOOK)
                status = cluster.status(0)
                if status is not None and (not seen or status["ballot"] != seen[-1]):
                    seen.append(status["ballot"])
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    say(f"{(told - began) / 60:.1f} min, {len(seen) - 1} leader changes")
        finally:
            curve = load.finish()
        end = time.monotonic()
    return Steady(
        minutes=minutes,
        connections=CONNECTIONS,
        changes=len(seen) - 1,
        throughput=curve.rate(began, end),
        stall=curve.stall(began, end),
    )


@contextlib.contextmanager
def _hog() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _HOG], start_new_session=True) as process:
        try:
            yield
        finally:
            process.kill()
