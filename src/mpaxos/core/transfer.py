"""State transfer, the side that lacks the state; the side that gives it is in state_source.

    IDLE --- no log reaches back to what is needed next ---> FETCH ---> INSTALLED --- switch
      ^                                                        |
      +<-- refused, no progress, a log reaches back again -----+

A replica that cannot catch up gets an *image*: the whole state as it was at one slot of its source,
in chunks (docs/image.md). They are installed in a new store beside the present one, which goes on
voting meanwhile. When the image is complete and verified, the replica switches to the new store.

**What must not be forgotten.** The new store has to know every vote the old one gave: its promise,
and every accepted record above the image's slot (`carried_over`). Records up to the image's slot
may go: these slots are decided, the image is the proof, and a replica that has applied a slot
answers for it as any replica that truncated its log does. Between the last vote of the old store
and the first of the new one nothing else may happen, so the switch ends the life of the replica:
the caller makes it right after a step, and begins a new life from what the new store holds.

**Flow control.** At most `state_credit` bytes are under way: a StateRequest names the chunk that
is expected, all before it are durable. It is repeated when nothing comes; so both sides find each
other again after a lost connection, and after a crash of this side, as long as the source lives.
"""

from __future__ import annotations

from collections.abc import Callable

from mpaxos.core.catchup import Catchup
from mpaxos.core.learner import Learner
from mpaxos.core.messages import StateChunk, StateRefused, StateRequest
from mpaxos.core.output import Write, WritePromise, WriteRecord
from mpaxos.core.settings import Settings
from mpaxos.core.transfer_io import (
    DropInstall,
    InstallChunk,
    Installed,
    InstallFailed,
    InstallFound,
    Switch,
)
from mpaxos.core.turn import Turn
from mpaxos.core.types import ZERO_BALLOT, Instant, LogReader, Recovered, ReplicaId, Slot

MAX_AHEAD = 1024
"""Chunks that may wait for earlier ones; the credit bounds their bytes."""


def carried_over(recovered: Recovered, log: LogReader, slot: Slot) -> list[Write]:
    """What a new store that holds the state at `slot` must be told of the old one: `recovered` and
    `log` are the old store's. To be written durably before the new one takes its place.

    The promise comes last: it is above the ballots of the records, and a store refuses these after
    it. A crash in between does no harm, as the old store is still the one that counts.
    """
    writes: list[Write] = []
    for found, _ in recovered.accepted:
        record = log.read(found) if found > slot else None
        if record is not None:
            writes.append(WriteRecord(record))
    if recovered.promised > ZERO_BALLOT:
        writes.append(WritePromise(recovered.promised))
    return writes


class StateTarget:
    """Fetches the state when catching up is not possible."""

    def __init__(self, settings: Settings, catchup: Catchup, learner: Learner) -> None:
        self.source: ReplicaId | None = None
        """Where the state comes from; None: no transfer is under way, or its source is sought."""
        self.problem: str | None = None
        """Why the last attempt failed."""
        self.made = 0
        self.total = 0
        """Bytes of the image sent so far, and an estimate of all."""
        self.installed = 0
        """Bytes of chunks that are durable here."""
        self._settings = settings
        self._catchup = catchup
        self._learner = learner
        self._job = 0
        self._active = False
        self._image = 0
        self._next = 0
        self._handed = 0
        self._waiting: dict[int, StateChunk] = {}
        self._sizes: dict[int, int] = {}
        self._complete: Slot | None = None
        self._asked_at: Instant = 0
        self._progress_at: Instant = 0
        self._begun_at: Instant = 0
        self._rest_until: Instant = 0
        self._tried: set[ReplicaId] = set()
        self._acknowledge = False
        self._all_here = False
        """The final chunk was handed on: the source is not needed any more."""
        self._found = False
        """The image is from the life before: who made it has to be found."""

    def handlers(self) -> dict[type, Callable[..., None]]:
        """Who takes messages and events of the transfer."""
        return {
            StateChunk: self.on_chunk,
            StateRefused: self.on_refused,
            Installed: self.on_installed,
            InstallFailed: self.on_failed,
            InstallFound: self.on_found,
        }

    @property
    def active(self) -> bool:
        """A transfer is under way."""
        return self._active

    # -- each turn -------------------------------------------------------------------------

    def tick(self, turn: Turn, connected: list[ReplicaId], leader: ReplicaId | None) -> None:
        """Begin, ask again, give up or switch when its time has come."""
        if not self._active:
            if not self._catchup.stuck or turn.now < self._rest_until:
                return
            self._begin(turn)
        elif leader is not None and self._overtaken():
            self._drop(turn)
            return
        if self._complete is not None:
            self._asked_at = turn.now
            turn.transfer(Switch(self._complete))
            return
        if self.source is None:
            self._choose(turn, connected, leader)
        elif self._is_silent(turn.now, connected):
            self._fail(turn, f"replica {self.source} sent nothing for too long")
        elif self._acknowledge:
            self._ask(turn, again=False)
        elif turn.now >= self._asked_at + self._settings.retry:
            # While chunks are being installed nothing is lost: this only shows that we live.
            self._ask(turn, again=self._handed == self._next)

    def wake_at(self) -> Instant | None:
        if self._active:
            return self._asked_at + self._settings.retry
        if self._catchup.stuck:
            return self._rest_until
        return None

    # -- messages and events -----------------------------------------------------------------

    def on_chunk(self, turn: Turn, sender: ReplicaId, message: StateChunk) -> None:
        """Hand chunks on in their order; those of another image or source are not ours."""
        if not self._active or sender != self.source or self._complete is not None:
            return
        if self._image == 0 and message.number == 0:
            self._image = message.image
        if message.image != self._image or not self._is_welcome(message):
            return
        self._progress_at = turn.now
        self.made = max(self.made, message.made)
        self.total = message.total
        self._waiting[message.number] = message
        self._sizes[message.number] = len(message.data)
        while (chunk := self._waiting.pop(self._handed, None)) is not None:
            turn.transfer(InstallChunk(self._job, chunk.image, chunk.number, chunk.data))
            self._handed += 1
            self._all_here = chunk.final

    def on_refused(self, turn: Turn, sender: ReplicaId, message: StateRefused) -> None:
        """The source cannot, or not any more."""
        ours = self._active and sender == self.source and message.image in (0, self._image)
        if ours and not self._all_here:
            self._fail(turn, f"replica {sender}: {message.reason}")

    def on_installed(self, turn: Turn, event: Installed) -> None:
        """Chunks became durable: the source may forget them and send more."""
        if event.job != self._job or not self._active:
            return
        for number in range(self._next, event.next):
            self.installed += self._sizes.pop(number, 0)
        self._next = event.next
        self._progress_at = turn.now
        self._acknowledge = True
        self._found = False
        if event.slot is not None:
            if self.source is not None:
                self._ask(turn, again=False)  # the source may forget the image
            self._complete = event.slot

    def on_failed(self, turn: Turn, event: InstallFailed) -> None:
        if event.job == self._job and self._active:
            self._fail(turn, f"it cannot be installed: {event.reason}")

    def on_found(self, turn: Turn, event: InstallFound) -> None:
        """Whoever has this image goes on with it; it is begun anew when nobody does."""
        self._begin(turn)
        self._image = event.image
        self._next = self._handed = event.next
        self._found = True

    # ----------------------------------------------------------------------------------------

    def _begin(self, turn: Turn) -> None:
        self._job += 1
        self._active = True
        self._image = self._next = self._handed = 0
        self.made = self.total = self.installed = 0
        self._waiting.clear()
        self._sizes.clear()
        self._complete = None
        self._acknowledge = self._all_here = self._found = False
        self._asked_at = self._progress_at = self._begun_at = turn.now

    def _drop(self, turn: Turn) -> None:
        turn.transfer(DropInstall())
        self._end(turn)

    def _end(self, turn: Turn) -> None:
        self._active = False
        self.source = None
        self._waiting.clear()
        self._rest_until = turn.now + self._settings.retry

    def _fail(self, turn: Turn, reason: str) -> None:
        """Seek another source; what was installed is of no use with another image."""
        self.problem = reason
        if self.source is not None:
            self._tried.add(self.source)
        self.source = None
        if not self._found:
            self._drop(turn)  # of no use with another image

    def _choose(self, turn: Turn, connected: list[ReplicaId], leader: ReplicaId | None) -> None:
        """A follower that has what is needed, rather than the leader, which is busier: those that
        just start to be connected are waited for. Of an image from the life before only its maker
        knows: all are asked, as they connect."""
        able = [p for p in connected if p not in self._tried]
        if not self._found:
            able = [peer for peer in able if self._catchup.is_ahead(peer)]
        followers = [peer for peer in able if peer != leader]
        beginning = turn.now < self._begun_at + self._settings.retry and not self._tried
        if beginning and not followers and not self._found:
            return
        source = self._catchup.pick(followers or able)
        if source is not None:
            self.source = source
            self._progress_at = turn.now
            self._ask(turn, again=True)
        elif not self._found or turn.now >= self._begun_at + self._settings.state_patience // 4:
            self._tried.clear()
            self._drop(turn)
        else:
            self._asked_at = turn.now

    def _ask(self, turn: Turn, *, again: bool) -> None:
        if self.source is None:
            return
        self._asked_at = turn.now
        self._acknowledge = False
        credit = self._settings.state_credit
        turn.send(self.source, StateRequest(self._image, self._next, credit, again))

    def _is_welcome(self, message: StateChunk) -> bool:
        ahead = message.number - self._handed
        if ahead < 0 or ahead >= MAX_AHEAD or message.number in self._waiting:
            return False
        held = sum(len(chunk.data) for chunk in self._waiting.values())
        return held <= 2 * self._settings.state_credit

    def _overtaken(self) -> bool:
        """The state that comes is not ahead of ours any more: some log reached back after all."""
        if self._complete is not None:
            return self._complete <= self._learner.decided_upto
        return not self._catchup.is_missing

    def _is_silent(self, now: Instant, connected: list[ReplicaId]) -> bool:
        """The source sent nothing for too long. One whose connection broke may come back, but is
        not waited for as long; and nobody is silent whose chunks are still being installed."""
        if self._handed > self._next:
            return False
        patience = self._settings.state_patience
        return now >= self._progress_at + (patience if self.source in connected else patience // 4)
