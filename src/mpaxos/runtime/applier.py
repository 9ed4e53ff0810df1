"""Applying decided batches, on the loop's thread or on one of its own.

A machine that is native and short is applied within the turn. A machine in Python may take its
time, so it gets a thread: the protocol goes on meanwhile, a bounded number of slots ahead.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from mpaxos import _native
from mpaxos.core.output import Applied, Decided, ReadReady
from mpaxos.core.types import Batch, Mark, Slot

if TYPE_CHECKING:
    from mpaxos._native import Engine, ReplySet


class Running(Protocol):
    """The command that runs right now."""

    @property
    def slot(self) -> int: ...
    @property
    def command(self) -> str: ...
    @property
    def started(self) -> int:
        """Monotonic clock, nanoseconds."""


class Machine(Protocol):
    """A state machine with its durable state, seen from the runtime."""

    def apply(self, slot: Slot, time: int, batch: Any, /) -> ReplySet:
        """Apply one slot in one transaction; return the replies it produced."""

    def query(self, batch: Any, /) -> ReplySet:
        """Answer queries from the present state."""

    @property
    def mark(self) -> tuple[int, int]:
        """(slot, digest) of the last applied slot."""

    @property
    def running(self) -> Running | None: ...


class NativeMachine:
    """The key-value machine inside the extension: no Python per request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.running: Running | None = None  # a native command cannot hang

    def apply(self, slot: Slot, time: int, batch: Any, /) -> ReplySet:
        return self._engine.apply_kv(slot, time, batch)

    def query(self, batch: Any, /) -> ReplySet:
        return self._engine.query_kv(batch)

    @property
    def mark(self) -> tuple[int, int]:
        return self._engine.mark


class Done:
    """What an applier has finished since it was last asked."""

    __slots__ = ("applied", "replies")

    def __init__(self) -> None:
        self.replies: list[ReplySet] = []
        self.applied: Applied | None = None


class Applier(Protocol):
    """Applies what is decided and answers reads when their slot is reached, in order."""

    def submit(self, decided: list[Decided], reads: list[ReadReady]) -> None: ...
    def collect(self) -> Done:
        """What is finished. Raises what the machine raised when it cannot go on."""

    def waits(self) -> bool:
        """Reads wait for a slot that is not decided yet."""

    def reached(self, slot: Slot) -> None:
        """Slots up to this one were applied, or are about to be, without submit()."""

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` between two slots, on the thread that applies."""

    def stop(self, patience: float) -> bool:
        """Apply no more. False when a command still runs after `patience` seconds."""


class _ReadGate:
    """Holds reads until their slot is among the submitted ones."""

    def __init__(self, upto: Slot) -> None:
        self._upto = upto
        self._waiting: list[ReadReady] = []

    def waits(self) -> bool:
        return bool(self._waiting)

    def reached(self, slot: Slot) -> None:
        self._upto = max(self._upto, slot)

    def pass_through(self, decided: list[Decided], reads: list[ReadReady]) -> list[Batch]:
        if decided:
            self._upto = decided[-1].slot
        if not self._waiting and not reads:
            return []
        self._waiting.extend(reads)
        ready = [read.batch for read in self._waiting if read.slot <= self._upto]
        self._waiting = [read for read in self._waiting if read.slot > self._upto]
        return ready


class InlineApplier:
    """Applies within the turn."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._gate = _ReadGate(machine.mark[0])
        self._done = Done()

    def submit(self, decided: list[Decided], reads: list[ReadReady]) -> None:
        machine, done = self._machine, self._done
        marks: list[Mark] = []
        for slot, value in ((d.slot, d.value) for d in decided):
            done.replies.append(machine.apply(slot, value.time, value.batch))
            marks.append(Mark(*machine.mark))
        for batch in self._gate.pass_through(decided, reads):
            done.replies.append(machine.query(batch))
        if marks:
            done.applied = merge(done.applied, marks)

    def collect(self) -> Done:
        done, self._done = self._done, Done()
        return done

    def waits(self) -> bool:
        return self._gate.waits()

    def reached(self, slot: Slot) -> None:
        self._gate.reached(slot)

    def call(self, function: Callable[[], None]) -> None:
        function()

    def stop(self, patience: float) -> bool:
        return True


class ThreadedApplier:
    """Applies on a thread of its own, which takes its work from `hand_over`."""

    def __init__(
        self, machine: Machine, wake: Callable[[], None], hand_over: _native.HandOver
    ) -> None:
        """`wake` makes the loop come and look after a call, and when the machine cannot go on.
        That something was applied is told by `hand_over` to whom it serves (Plane.serve)."""
        self._machine = machine
        self._wake = wake
        self._hand_over = hand_over
        self._gate = _ReadGate(machine.mark[0])
        self._calls: deque[Callable[[], None]] = deque()
        self._failure: BaseException | None = None
        self._worker = threading.Thread(target=self._run, name="applier", daemon=True)
        self._worker.start()

    def submit(self, decided: list[Decided], reads: list[ReadReady]) -> None:
        hand_over = self._hand_over
        for slot, value in ((d.slot, d.value) for d in decided):
            hand_over.put_slot(slot, value.time, cast(_native.Batch, value.batch))
        for batch in self._gate.pass_through(decided, reads):
            hand_over.put_reads(cast(_native.Batch, batch))

    def collect(self) -> Done:
        if self._failure is not None:
            raise self._failure
        done = Done()
        marks: list[Mark] = []
        for slot, digest, replies in self._hand_over.results():
            done.replies.append(replies)
            if slot:
                marks.append(Mark(slot, digest))
        if marks:
            done.applied = merge(None, marks)
        return done

    def waits(self) -> bool:
        return self._gate.waits()

    def reached(self, slot: Slot) -> None:
        self._gate.reached(slot)

    def call(self, function: Callable[[], None]) -> None:
        self._calls.append(function)
        self._hand_over.put_call()

    def stop(self, patience: float) -> bool:
        """Let the slot that runs finish, drop the others: they are in the log."""
        self._hand_over.stop()
        self._worker.join(patience)
        return not self._worker.is_alive() and self._is_gone(patience)

    def _is_gone(self, patience: float) -> bool:
        """Whether the operating system's thread has ended, too; join() returns a moment before.

        libpmemobj runs a destructor in that moment which uses the pool: it must not be closed yet.
        """
        task = f"/proc/self/task/{self._worker.native_id}"
        end = time.monotonic() + patience
        while os.path.exists(task) and time.monotonic() < end:
            time.sleep(0.0002)
        return not os.path.exists(task)

    def _run(self) -> None:
        machine, hand_over = self._machine, self._hand_over
        try:
            while True:
                kind, slot, stamp, batch = hand_over.take()
                if kind == _native.WORK_SLOT:
                    replies = machine.apply(slot, stamp, batch)
                    hand_over.done(slot, machine.mark[1], replies)
                elif kind == _native.WORK_READS:
                    hand_over.done(0, 0, machine.query(batch))
                elif kind == _native.WORK_CALL:
                    self._calls.popleft()()
                    self._wake()
                else:
                    return
        except BaseException as error:
            self._failure = error
            self._wake()


def merge(before: Applied | None, marks: list[Mark]) -> Applied:
    """One event for all slots applied since the loop last looked."""
    return Applied(marks[-1], (before.marks if before is not None else []) + marks)
