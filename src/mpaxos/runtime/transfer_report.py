"""How far state transfers are: for the status command, and in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from mpaxos.core.replica import Replica

log = logging.getLogger("mpaxos.transfer")

MIB = 1 << 20

_EVERY = 2.0
"""Seconds between two lines in the log about one transfer."""


def percent(done: int, total: int) -> int:
    """How much of `total` is done; below 100, as `total` is an estimate."""
    return min(99, 100 * done // max(1, total))


class Meter:
    """Bytes per second since the first look at a transfer."""

    def __init__(self, now: float, done: int) -> None:
        self._began = now
        self._first = done
        self.logged_at = now

    def rate(self, now: float, done: int) -> int:
        """Bytes per second; 0 at the beginning."""
        passed = now - self._began
        return int(max(0, done - self._first) / passed) if passed > 0.05 else 0


class TransferReport:
    """Watches the transfers of one replica."""

    def __init__(self, replica: Replica, clock: Callable[[], float] = time.monotonic) -> None:
        self._replica = replica
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._said: str | None = None

    def report(self) -> dict[str, Any]:
        """receiving: None or source, bytes received, installed and total (an estimate), percent
        and rate (bytes per second); sending: a list of the same with target and made; problem: why
        the last attempt to receive one failed, or None."""
        now = self._clock()
        target = self._replica.state_target
        receiving = None
        if target.active:
            receiving = {
                "source": target.source,
                "received": target.made,
                "installed": target.installed,
                "total": target.total,
                "percent": percent(target.installed, target.total),
                "rate": self._rate("receiving", now, target.installed),
            }
        sending = [
            {
                "target": serving.target,
                "made": serving.made,
                "total": serving.total,
                "percent": percent(serving.made, serving.total),
                "rate": self._rate(f"to {serving.target}", now, serving.made),
            }
            for serving in self._replica.state_source.servings
        ]
        return {"receiving": receiving, "sending": sending, "problem": target.problem}

    def after_turn(self) -> None:
        """Called now and then: writes to the log what is worth a line."""
        target = self._replica.state_target
        servings = self._replica.state_source.servings
        if target.problem != self._said:
            self._said = target.problem
            if self._said is not None:
                log.warning("receiving the state failed, another attempt follows: %s", self._said)
        if not target.active and not servings and not self._meters:
            return
        now = self._clock()
        seen = set()
        if target.active:
            text = f"receiving the state of replica {target.source}"
            self._say("receiving", now, text, target.installed, target.total)
            seen.add("receiving")
        for serving in servings:
            name = f"to {serving.target}"
            text = f"sending the state to replica {serving.target}"
            self._say(name, now, text, serving.made, serving.total)
            seen.add(name)
        for name in self._meters.keys() - seen:
            del self._meters[name]
            log.info(
                "no state is %s any more", "received" if name == "receiving" else "sent " + name
            )

    def _say(self, name: str, now: float, text: str, done: int, total: int) -> None:
        meter = self._meters.get(name)
        if meter is None:
            self._meters[name] = Meter(now, done)
            log.info("%s", text)
        elif now >= meter.logged_at + _EVERY:
            meter.logged_at = now
            rate = meter.rate(now, done) // MIB
            log.info("%s: %d MiB, %d %%, %d MiB/s", text, done // MIB, percent(done, total), rate)

    def _rate(self, name: str, now: float, done: int) -> int:
        meter = self._meters.get(name)
        return 0 if meter is None else meter.rate(now, done)
