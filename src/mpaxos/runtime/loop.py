"""The loop: one pass is one turn, and a turn is all that has arrived.

    poll sockets -> step the protocol -> send what rests on no write -> make its writes durable
                 -> send its messages -> apply what is decided -> deliver replies
                 -> a bit of a state transfer

Python is entered once per turn, never once per request (but to run a machine that is written in
Python). Everything that the protocol asks for is done in the order of its Output; nothing
that depends on a write leaves this process before the write is durable. Turns in which only what is
usual arrives are taken within poll(), without Python (mpaxos.core.mandate). A store that can make
writes durable while its caller goes on does not stop the loop: see mpaxos.runtime.held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mpaxos.core.output import Applied, Event, LogRoom, Output, Truncate
from mpaxos.core.standing import Standing
from mpaxos.core.types import Instant
from mpaxos.net.plane import AdminRequest, Notice, Plane, Polled
from mpaxos.runtime.applier import Applier, Done
from mpaxos.runtime.held import Held
from mpaxos.storage.store import LaterStore, Store


class Background(Protocol):
    """What is done beside the protocol's turns: mpaxos.runtime.transfer.Transfers."""

    def collect(self, now: Instant, /) -> list[Event]:
        """What has been done since the last turn; may do a bounded part that is due at `now`."""

    def carry_out(self, output: Output, /) -> None:
        """Begin what the step asked for; may lower `output.wake_at`."""


class Steady(Protocol):
    """Takes ordinary turns while the protocol has given a mandate (mpaxos.core.mandate)."""

    @property
    def active(self) -> bool:
        """Whether there is one."""

    def begin(self, mandate: Standing, /) -> None:
        """Ordinary turns may be taken from here on."""

    def end(self) -> Standing | None:
        """No more; where they led, or None when none was taken."""

    def applied(self, applied: Applied, /) -> None:
        """What was handed out, or decided before the mandate, is applied."""

    def room_is(self, free: int, /) -> None:
        """The log has this much room."""


class Stepping(Protocol):
    """The protocol of one replica: mpaxos.core.replica.Replica."""

    def mandate(self) -> Standing | None:
        """Where it stands, if ordinary turns may be taken by somebody else from there."""

    def step(self, now: Instant, events: list[Event], /) -> Output:
        """Take in `events` at time `now` and say what is to be done."""


class Loop:
    """Turns one replica until it is told to stop."""

    def __init__(
        self,
        plane: Plane[Any],
        replica: Stepping,
        store: Store,
        applier: Applier,
        on_admin: Callable[[AdminRequest], None],
        on_notice: Callable[[Notice], None],
        background: Background | None = None,
        later: LaterStore | None = None,
        steady: Steady | None = None,
    ) -> None:
        """`later`: the same store, when its writes need not be waited for; whoever passes it wakes
        the plane when more of them are durable. `steady`: the plane takes ordinary turns by it, so
        not with a `later` store."""
        self._plane = plane
        self._replica = replica
        self._store = store
        self._applier = applier
        self._on_admin = on_admin
        self._on_notice = on_notice
        self._background = background
        self._held = None if later is None else Held(later)
        self._steady = steady
        self._injected: list[Event] = []
        self._output = Output()
        self._pending: list[LogRoom | Applied] = []
        self._stopping = False

    @property
    def output(self) -> Output:
        """What the last turn asked for."""
        return self._output

    @property
    def stopping(self) -> bool:
        """True once stop() was called."""
        return self._stopping

    def stop(self) -> None:
        """Make this the last turn. Safe to call from a signal handler."""
        self._stopping = True

    def inject(self, event: Event) -> None:
        """Give the protocol `event` in the next turn."""
        self._injected.append(event)

    def turn(self) -> None:
        """One pass. Raises what cannot be gone on with: StorageError, InvariantViolated."""
        polled = self._plane.poll(self._output)
        done = self._applier.collect()
        progress = [] if self._background is None else self._background.collect(polled.now)
        steady = self._steady
        if steady is not None and not progress and self._is_ordinary(steady, polled, done):
            return
        events: list[Event] = [*self._pending]
        self._pending = []
        if steady is not None and (standing := steady.end()) is not None:
            events.append(standing)
        events += self._injected
        self._injected = []
        events += polled.events
        if done.applied is not None:
            events.append(done.applied)
        events += progress
        output = self._replica.step(polled.now, events)
        if output.early:
            self._plane.send(output.early)
            self._plane.flush()
        if self._held is None:
            if output.writes:
                self._store.write(output.writes)
                self._wrote(output)
            self._carry_out(output, done.replies)
        else:
            self._held.take(output)
            if output.writes:
                self._wrote(output)
            for released in self._held.release():
                self._carry_out(released, done.replies)
        for replies in done.replies:
            self._plane.deliver(replies)
        self._plane.flush()
        for request in polled.admin:
            self._on_admin(request)
        for notice in polled.notices:
            self._on_notice(notice)
        if self._background is not None:
            self._background.carry_out(output)
        self._output = output
        if steady is not None:
            self._give_mandate(steady)

    def _is_ordinary(self, steady: Steady, polled: Polled, done: Done) -> bool:
        """Whether all that came was taken in within poll(); then only what is applied is left."""
        if not steady.active or polled.events or polled.admin or polled.notices:
            return False
        if polled.now >= self._output.wake_at or self._injected or self._stopping:
            return False
        if done.applied is not None:
            steady.applied(done.applied)
        if done.replies:
            for replies in done.replies:
                self._plane.deliver(replies)
            self._plane.flush()
        return True

    def _give_mandate(self, steady: Steady) -> None:
        if self._stopping or self._injected or self._applier.waits():
            return
        mandate = self._replica.mandate()
        if mandate is None:
            return
        steady.begin(mandate)
        # The protocol hears of these in its next step, before it is told where the turns led.
        for event in self._pending:
            if isinstance(event, Applied):
                steady.applied(event)
            else:
                steady.room_is(event.free)

    def finish(self) -> None:
        """After the last turn: carry out what is held, so that nothing that was promised to
        somebody is left unsaid. Raises StorageError."""
        if self._held is None:
            return
        self._held.wait()
        finished: list[Any] = []
        for released in self._held.release():
            self._carry_out(released, finished)
        for replies in finished:
            self._plane.deliver(replies)
        self._plane.flush()

    def _carry_out(self, output: Output, finished: list[Any]) -> None:
        """All but the writes, which are durable. What is applied meanwhile adds its replies to
        `finished`."""
        if output.messages:
            self._plane.send(output.messages)
            self._plane.flush()
        if output.decided or output.reads:
            self._applier.submit(output.decided, output.reads)
            done = self._applier.collect()
            finished += done.replies
            if done.applied is not None:
                self._pending.append(done.applied)

    def _wrote(self, output: Output) -> None:
        self._pending.append(LogRoom(self._store.log_room))
        if any(isinstance(write, Truncate) for write in output.writes):
            # Room was made: the protocol may have waited for it, so do not sleep before it knows.
            output.wake_at = 0
