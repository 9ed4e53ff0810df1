"""The native taker of ordinary turns, as the loop sees it: mpaxos.runtime.loop.Steady."""

from __future__ import annotations

import msgspec

from mpaxos import _native
from mpaxos.core.output import Applied
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Standing
from mpaxos.runtime.applier import Applier


def native_steady(
    settings: Settings, *, log_size: int, epoch: int, incarnation: int
) -> _native.Steady:
    """For a replica with these settings; the arguments are those of mpaxos.core.replica.Replica."""
    return _native.Steady(
        replica=settings.replica,
        replicas=settings.replicas,
        window=settings.window,
        local_batches=settings.local_batches,
        max_apply_lag=settings.max_apply_lag,
        mark_interval=settings.mark_interval,
        record_overhead=settings.record_overhead,
        log_size=log_size,
        epoch=epoch,
        incarnation=incarnation,
    )


class NativeSteady:
    """Hands mandates over, and takes back where they led."""

    def __init__(self, steady: _native.Steady, applier: Applier | None) -> None:
        """`applier`: past which the plane applies, or hands over, what ordinary turns decide;
        None: nothing goes past it."""
        self._steady = steady
        self._applier = applier

    @property
    def active(self) -> bool:
        return self._steady.active

    def begin(self, mandate: Standing, /) -> None:
        self._steady.begin(msgspec.structs.astuple(mandate))

    def end(self) -> Standing | None:
        fields = self._steady.end()
        if fields is None:
            return None
        standing = Standing(*fields)
        if self._applier is not None:
            self._applier.reached(standing.decided)
        return standing

    def applied(self, applied: Applied, /) -> None:
        self._steady.on_applied(applied.mark.slot, applied.marks)

    def room_is(self, free: int, /) -> None:
        self._steady.on_room(free)
