"""The load generator on a thread of its own, for as long as what happens meanwhile takes."""

from __future__ import annotations

import threading
import time

from mpaxos.bench.load import Finish, LoadFailed, LoadReport, Workload, drive
from mpaxos.errors import MpaxosError

INTERVAL = 0.01
"""Seconds between two points of a curve."""

FOR_EVER = 100_000.0
"""Seconds; the run is told to finish."""

_GRACE = 60.0
"""Seconds that it may take to begin, and to end."""


class Curve:
    """The answers of a run over time. Times are seconds of time.monotonic()."""

    def __init__(self, report: LoadReport) -> None:
        self.report = report
        self.began = report.began / 1e9
        self.counts = report.series

    def rate(self, begin: float, end: float) -> float:
        """Answers per second between two times."""
        first, last = (round((at - self.began) / INTERVAL) for at in (begin, end))
        first, last = max(0, first), max(0, last)
        return sum(self.counts[first:last]) / max(INTERVAL, (last - first) * INTERVAL)

    def answers(self, begin: float, end: float) -> int:
        """Answers between two times."""
        return round(self.rate(begin, end) * (end - begin))

    def stall(self, begin: float, end: float) -> float:
        """The longest interval without a single answer that overlaps with this time, in seconds.

        Below 10 ms it is not recorded: 0.
        """
        longest = 0
        for at, length in self.report.stalls:
            since = self.began + at / 1e9
            if since < end and since + length / 1e9 > begin:
                longest = max(longest, length)
        return longest / 1e9


class BackgroundLoad:
    """Closed-loop clients until told to finish."""

    def __init__(self, workload: Workload, addresses: list[str]) -> None:
        """Returns when all clients are connected and at work. Raises LoadFailed."""
        self._report: LoadReport | None = None
        self._failure: MpaxosError | None = None
        self._finish: Finish | None = None
        self._measuring = threading.Event()
        self._thread = threading.Thread(target=self._drive, args=(workload, addresses), daemon=True)
        self._thread.start()
        if not self._measuring.wait(_GRACE):
            raise LoadFailed(f"the load generator was not ready after {_GRACE:.0f} s")
        self.check()

    def check(self) -> None:
        """Raise what ended the load, if something did."""
        if self._failure is not None:
            raise self._failure

    def wait(self, seconds: float) -> None:
        """Let the load go on. Raises LoadFailed when it ended."""
        self._thread.join(seconds)
        self.check()

    def finish(self) -> Curve:
        """End the load; what it saw. Raises LoadFailed."""
        end = time.monotonic() + _GRACE
        while self._thread.is_alive() and time.monotonic() < end:
            if self._finish is not None:
                self._finish()
            self._thread.join(0.5)
        self.check()
        if self._report is None:
            raise LoadFailed("the load generator did not end when told to")
        return Curve(self._report)

    def _drive(self, workload: Workload, addresses: list[str]) -> None:
        try:
            self._report = drive(
                workload,
                addresses,
                on_started=self._started,
                on_measure=self._measuring.set,
                series=INTERVAL,
            )
        except MpaxosError as error:
            self._failure = error
        finally:
            self._measuring.set()

    def _started(self, finish: Finish) -> None:
        self._finish = finish
