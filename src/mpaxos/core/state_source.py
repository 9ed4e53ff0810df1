"""State transfer, the side that gives its state. The theory is in mpaxos.core.transfer.

An image is made chunk by chunk, as the target takes them: chunks that are not yet durable there are
kept, at most its credit of bytes. A target that is silent for long loses its image, because an
image that is under way costs the machine memory and time.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mpaxos.core.messages import StateChunk, StateRefused, StateRequest
from mpaxos.core.settings import Settings
from mpaxos.core.transfer import StateTarget
from mpaxos.core.transfer_io import ChunkMade, CloseImage, ImageFailed, MakeChunk
from mpaxos.core.turn import Turn
from mpaxos.core.types import Instant, ReplicaId

MAX_SERVED = 2
"""Targets at a time; the engine takes as many images."""

MAX_CREDIT = 64 << 20
"""Bytes of chunks kept for one target, whatever it asks for."""


class Serving(msgspec.Struct):
    """One image on its way to one target."""

    job: int
    target: ReplicaId
    heard_at: Instant
    image: int = 0
    """0 until the first chunk is made."""
    acknowledged: int = 0
    """Number of the first chunk that is not durable at the target."""
    next_sent: int = 0
    next_made: int = 0
    credit: int = 0
    making: bool = False
    complete: bool = False
    """The final chunk is made."""
    made: int = 0
    total: int = 0
    kept: int = 0
    """Bytes of `chunks`."""
    chunks: dict[int, StateChunk] = {}


class StateSource:
    """Gives images of this replica's state to others."""

    def __init__(self, settings: Settings, target: StateTarget) -> None:
        """`target`: the other side; while it is active, the state here is of no use to anybody."""
        self._target = target
        self._settings = settings
        self._servings: dict[ReplicaId, Serving] = {}
        self._jobs = 0

    def handlers(self) -> dict[type, Callable[..., None]]:
        """Who takes messages and events of the transfer."""
        return {
            StateRequest: self.on_request,
            ChunkMade: self.on_made,
            ImageFailed: self.on_failed,
        }

    @property
    def servings(self) -> list[Serving]:
        """What is under way, for people to look at."""
        return list(self._servings.values())

    def on_request(self, turn: Turn, sender: ReplicaId, message: StateRequest) -> None:
        """Begin an image, go on with one, or say no."""
        serving = self._servings.get(sender)
        begins = message.image == 0 and (serving is None or serving.acknowledged > 0)
        if begins:
            if serving is not None:
                self._close(turn, serving)
            serving = self._begin(turn, sender)
            if serving is None:
                return
        elif serving is None or message.image not in (0, serving.image):
            turn.send(sender, StateRefused(message.image, "this image is not kept here (any more)"))
            return
        if not serving.acknowledged <= message.next <= serving.next_made:
            return  # an old one that was overtaken by another, or nonsense
        serving.heard_at = turn.now
        serving.credit = min(message.credit, MAX_CREDIT)
        for number in range(serving.acknowledged, message.next):
            serving.kept -= len(serving.chunks.pop(number).data)
        serving.acknowledged = message.next
        serving.next_sent = message.next if message.again else max(serving.next_sent, message.next)
        if serving.complete and message.next == serving.next_made:
            self._close(turn, serving)
            return
        self._pump(turn, serving)

    def on_made(self, turn: Turn, event: ChunkMade) -> None:
        """A chunk is ready: send it."""
        serving = self._by_job(event.job)
        if serving is None:
            return
        serving.making = False
        serving.image = event.image
        serving.complete = event.final
        serving.made, serving.total = event.made, event.total
        serving.next_made = event.number + 1
        serving.kept += len(event.data)
        serving.chunks[event.number] = StateChunk(
            event.image, event.number, event.slot, event.final, event.made, event.total, event.data
        )
        self._pump(turn, serving)

    def on_failed(self, turn: Turn, event: ImageFailed) -> None:
        """The image was given up: the target has to begin anew."""
        serving = self._by_job(event.job)
        if serving is not None:
            turn.send(serving.target, StateRefused(serving.image, event.reason))
            del self._servings[serving.target]

    def tick(self, turn: Turn) -> None:
        """Give up images of targets that are silent."""
        for serving in list(self._servings.values()):
            if turn.now >= serving.heard_at + self._settings.state_patience:
                self._close(turn, serving)

    # ----------------------------------------------------------------------------------------

    def _begin(self, turn: Turn, target: ReplicaId) -> Serving | None:
        unable = "it needs a state itself" if self._target.active else None
        if len(self._servings) >= MAX_SERVED:
            unable = "it gives its state to others already"
        if unable is not None:
            turn.send(target, StateRefused(0, unable))
            return None
        self._jobs += 1
        serving = Serving(self._jobs, target, turn.now, chunks={})
        self._servings[target] = serving
        return serving

    def _pump(self, turn: Turn, serving: Serving) -> None:
        """Send what was not sent, and have more made as far as the credit goes."""
        while (chunk := serving.chunks.get(serving.next_sent)) is not None:
            turn.send(serving.target, chunk)
            serving.next_sent += 1
        if not serving.making and not serving.complete and serving.kept < serving.credit:
            serving.making = True
            turn.transfer(MakeChunk(serving.job))

    def _close(self, turn: Turn, serving: Serving) -> None:
        turn.transfer(CloseImage(serving.job))
        del self._servings[serving.target]

    def _by_job(self, job: int) -> Serving | None:
        return next((s for s in self._servings.values() if s.job == job), None)
