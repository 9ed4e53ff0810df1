"""State transfer on a replica that runs: makes images of its state, installs those of others.

The protocol (mpaxos.core.transfer) says what is to be done, in Output.transfer; here it is done,
and the results go back as events. Neither may hold up the replica:

- **Making chunks** happens between two slots on the thread that applies, a bounded cost at a time.
  While commands are being decided, each chunk is followed by a rest of six times what it took, so
  that a source keeps most of its time for its clients. A chunk is made right before a step, not
  after one: the step that sends it is the one that asks for the next, and no other is needed.
- **Installing** happens on a thread of its own, in a store beside the one that serves.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mpaxos import _native
from mpaxos.core.output import Event, Output
from mpaxos.core.transfer_io import (
    ChunkMade,
    CloseImage,
    DropInstall,
    ImageFailed,
    InstallChunk,
    Installed,
    InstallFailed,
    InstallFound,
    MakeChunk,
    Switch,
)
from mpaxos.core.types import Instant, Slot
from mpaxos.errors import MpaxosError, invariant
from mpaxos.runtime.applier import Applier
from mpaxos.storage.store import Store

if TYPE_CHECKING:
    from mpaxos._native import Chunk, Engine, ImageSource

log = logging.getLogger("mpaxos.transfer")

CHUNK = 2 << 20
"""Cost of a chunk, about bytes: two milliseconds of the thread that applies. Each chunk is a few
turns of the loop here and at the target: half as much takes a tenth more processor time at both."""


class StateSink(Protocol):
    """A store beside the present one, into which a state is installed."""

    @property
    def prepared(self) -> bool:
        """There is an empty one already, which is of no use once nothing needs to be received."""

    def found(self) -> tuple[int, int] | None:
        """Image and next chunk of what an earlier life left unfinished; None: nothing."""

    def begin(self) -> None:
        """Make an empty one, whatever was there. Raises StorageError."""

    def install(self, data: bytes | Chunk) -> Slot | None:
        """Install the next chunk, durably; the slot of the image once it is complete and verified.

        Raises ImageError, WireError, StorageError: then it is of no use any more.
        """

    def drop(self) -> None:
        """Remove it."""

    def switch(self, store: Store, slot: Slot) -> None:
        """Carry over what `store`, the present one, must not forget, and put this one in its place:
        a crash leaves the one or the other, complete. Called when no other call is under way,
        on the thread that writes `store`."""


class Deciding(Protocol):
    """The protocol of the replica, as far as it matters here."""

    @property
    def decided_upto(self) -> Slot:
        """Commands up to here are decided, and about to be applied."""


class ImageMaker:
    """Makes the chunks of images of one engine."""

    REST = 6
    """How long the rest after a chunk is, in what it took. Less, and where source and target share
    a machine the clients may have less than half of what they had: docs/state-transfer.md."""

    def __init__(
        self,
        open_image: Callable[[], ImageSource],
        applier: Applier,
        events: deque[Event],
    ) -> None:
        self._open_image = open_image
        self._applier = applier
        self._events = events
        self._images: dict[int, ImageSource] = {}
        self._wanted: deque[int] = deque()
        self._closed: set[int] = set()
        self._under_way = False
        self._rested: Instant = 0
        """When the rest after the last chunk is over, if one is due."""
        self._due: Instant = 0

    def want(self, job: int) -> None:
        self._wanted.append(job)

    def close_image(self, job: int) -> None:
        self._closed.add(job)
        self._applier.call(lambda: self._close(job))

    def work(self, now: Instant) -> None:
        """Have a chunk made if one is wanted and it is time."""
        if not self._wanted or self._under_way or now < self._due:
            return
        self._under_way = True
        job = self._wanted.popleft()
        self._applier.call(lambda: self._make(job))

    def plan(self, busy: bool) -> Instant | None:
        """When to have the next chunk made; None: none is wanted. `busy`: commands are being
        decided, so a rest is due."""
        self._due = self._rested if busy else 0
        return self._due if self._wanted and not self._under_way else None

    def close(self) -> None:
        """The machine applies no more: let go of it."""
        for job in list(self._images):
            self._close(job)

    # What follows runs on the thread that applies, between two slots.

    def _make(self, job: int) -> None:
        began = time.monotonic_ns()
        try:
            if job not in self._closed:
                self._events.append(self._next(job))
        except MpaxosError as error:
            self._close(job)
            self._events.append(ImageFailed(job, str(error)))
        ended = time.monotonic_ns()
        self._rested = ended + self.REST * (ended - began)
        self._under_way = False

    def _next(self, job: int) -> Event:
        source = self._images.get(job)
        if source is None:
            source = self._images[job] = self._open_image()
        chunk = source.next_chunk(CHUNK)
        if chunk is None:
            return ImageFailed(job, "the image has no more chunks")
        done = source.progress()
        made = done["bytes"]
        total = made * max(done["total"], done["items"]) // max(1, done["items"])
        if chunk.final:
            self._close(job)
        total = max(made, total)
        return ChunkMade(
            job, chunk.image, chunk.number, chunk.slot, chunk.final, made, total, chunk
        )

    def _close(self, job: int) -> None:
        source = self._images.pop(job, None)
        if source is not None:
            source.close()


class Installer:
    """Installs chunks on a thread of its own."""

    PATIENCE = 60.0
    """Seconds that the chunk which is being installed may take when the replica stops."""

    UNTOLD = 0.02
    """Seconds that an installed chunk may wait to be told of: each telling is a turn here, and one
    at the source."""

    UNTOLD_BYTES = 4 << 20
    """Bytes of chunks from which on they do not wait: half of Settings.state_credit, so that the
    source has the other half to go on with."""

    def __init__(self, sink: StateSink, events: deque[Event], wake: Callable[[], None]) -> None:
        self._sink = sink
        self._events = events
        self._wake = wake
        self._work: queue.SimpleQueue[InstallChunk | DropInstall | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._failed_job = 0
        self._told_at = 0.0
        self._untold = 0
        """Bytes of chunks that were installed and not told of."""

    def put(self, item: InstallChunk | DropInstall) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="installer", daemon=True)
            self._thread.start()
        self._work.put(item)

    def stop(self) -> bool:
        """Install no more; what is installed stays. False when a chunk takes too long."""
        self._stopping = True
        if self._thread is None:
            return True
        self._work.put(None)
        self._thread.join(self.PATIENCE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            if self._stopping:
                continue
            try:
                if isinstance(item, DropInstall):
                    self._sink.drop()
                elif item.job != self._failed_job:
                    self._install(item)
                    if 0 < self._untold < self.UNTOLD_BYTES:
                        continue
            except (MpaxosError, OSError) as error:
                if isinstance(item, InstallChunk):
                    self._failed_job = item.job
                    self._events.append(InstallFailed(item.job, str(error)))
                else:
                    log.warning("cannot remove what was received: %s", error)
            self._tell()

    def _next(self) -> InstallChunk | DropInstall | None:
        """What is to be done next; if that is not there in time, what is done is told of first."""
        if self._untold > 0:
            left = self._told_at + self.UNTOLD - time.monotonic()
            if left > 0:
                with contextlib.suppress(queue.Empty):
                    return self._work.get(timeout=left)
            self._tell()
        return self._work.get()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        self._untold = 0
        self._wake()

    def _install(self, chunk: InstallChunk) -> None:
        if chunk.number == 0:
            self._sink.begin()
        slot = self._sink.install(chunk.data)
        self._events.append(Installed(chunk.job, chunk.number + 1, slot))
        self._untold = self._untold + len(chunk.data) if slot is None else 0


class Transfers:
    """Carries out the state transfers of one life of a replica."""

    def __init__(
        self,
        engine: Engine,
        applier: Applier,
        sink: StateSink,
        wake: Callable[[], None],
        replica: Deciding,
    ) -> None:
        self.switch: Switch | None = None
        """The protocol asks for it: to be done before the next turn."""
        self._sink = sink
        self._events: deque[Event] = deque()
        self._maker = ImageMaker(lambda: _native.ImageSource(engine), applier, self._events)
        self._installer = Installer(sink, self._events, wake)
        self._replica = replica
        self._decided_before = replica.decided_upto
        """When a chunk was asked for last."""
        self._busy = False
        """Commands were decided between the last two times."""
        found = sink.found()
        self._prepared = sink.prepared
        if found is not None:
            log.info("a state was being received: going on at chunk %d", found[1])
            self._events.append(InstallFound(*found))

    def collect(self, now: Instant) -> list[Event]:
        """What has been done since the last turn, a chunk that is due now included."""
        self._maker.work(now)
        events: list[Event] = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def carry_out(self, output: Output) -> None:
        """Begin what a step asked for; lowers `output.wake_at` when there is something to do."""
        for step in output.transfer:
            match step:
                case MakeChunk(job=job):
                    decided = self._replica.decided_upto
                    self._busy = decided > self._decided_before
                    self._decided_before = decided
                    self._maker.want(job)
                case CloseImage(job=job):
                    self._maker.close_image(job)
                case InstallChunk() | DropInstall():
                    self._prepared = False
                    self._installer.put(step)
                case Switch():
                    self.switch = step
        if output.decided and self._prepared:
            # Some log reached back to the first slot: no state is needed, nor a place for it.
            self._prepared = False
            self._installer.put(DropInstall())
        again = self._maker.plan(self._busy)
        if again is not None:
            output.wake_at = min(output.wake_at, again)

    def switch_store(self, store: Store) -> None:
        """Do what the protocol asked for; `store` must not be written any more. Raises
        StorageError: then it is as it was."""
        if self.switch is None:
            invariant(False, "a switch that nobody asked for")
            return
        self._sink.switch(store, self.switch.slot)
        log.info("the state at slot %d is complete: switched to it", self.switch.slot)

    def stop_installing(self) -> bool:
        """Install no more. False when that takes too long."""
        return self._installer.stop()

    def close(self) -> None:
        """Let go of the engine; called once it applies no more."""
        self._maker.close()
