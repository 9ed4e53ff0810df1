"""Takes snapshots of a volatile machine while commands go on.

A snapshot is due when as much log has been applied as the last one was long (`[snapshots] ratio`,
but at least `minimum`), or when the log needs the room. An image of the state (docs/image.md) is
then taken in chunks, between two slots, on the thread that applies. A thread of its own writes
them to a file of the replica's directory and, when it is durable, the protocol hears how far the
log may be truncated.

Nothing is ever stopped for it. A chunk of 64 KiB takes about a tenth of a millisecond, and after
each the machine has at least three times as long for commands: so a snapshot costs at most a
quarter of what the thread that applies can do, and it takes its time instead. When the replica is
idle it takes all there is.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from mpaxos._native import Engine, ImageSource
from mpaxos.core.output import Output
from mpaxos.core.types import Mark
from mpaxos.errors import ImageError
from mpaxos.storage.memory import Memory
from mpaxos.storage.snapshots import Snapshot, Snapshots, SnapshotWriter

log = logging.getLogger("mpaxos.snapshots")

CHUNK = 64 << 10
"""Bytes of a chunk."""

QUEUED = 64
"""Chunks between the machine and the writer: 4 MiB."""

PAUSE = 3
"""So many times as long as a chunk took, no other one is taken, unless the replica is idle."""

RETRY = 5.0
"""Seconds until a snapshot that failed is tried again."""

BREATH = 1.0
"""Seconds between two snapshots that are taken only because the log is full."""


class Rules(Protocol):
    """When a snapshot is due; mpaxos.config.SnapshotsConfig."""

    @property
    def ratio(self) -> float: ...
    @property
    def minimum(self) -> int: ...


class Snapshotter:
    """Asked after every turn of the loop; takes snapshots when they are due."""

    def __init__(
        self,
        memory: Memory,
        snapshots: Snapshots,
        engine: Engine,
        rules: Rules,
        *,
        call: Callable[[Callable[[], None]], None],
        wake: Callable[[], None],
    ) -> None:
        """`call` runs a function between two slots, on the thread that applies; `wake` makes the
        loop turn."""
        self._memory = memory
        self._snapshots = snapshots
        self._engine = engine
        self._rules = rules
        self._call = call
        self._wake = wake
        self._job: _Job | None = None
        self._applied = 0
        self._applied_at_cut = 0
        self._not_before = 0.0
        self._pressed_before = 0.0
        self._began = 0.0
        self._failure: str | None = None
        self._taken = 0

    def applied(self, length: int) -> None:
        """So many bytes of the log were applied."""
        self._applied += length

    @property
    def under_way(self) -> bool:
        """A snapshot is being taken or written."""
        return self._job is not None

    def after_turn(self, output: Output) -> Snapshot | None:
        """A snapshot that became durable, once. Begins one that is due, and asks for the next chunk
        of one that is under way; lowers `output.wake_at` to when there is more to do."""
        if output.decided:
            self.applied(sum(decided.value.batch.length for decided in output.decided))
        job = self._job
        if job is None:
            if self._is_due():
                self._begin()
            return None
        if job.result is not None:
            return self._collect(job, job.result)
        if job.wants_chunk:
            now = time.monotonic_ns()
            idle = not (output.decided or output.writes or output.messages)
            if idle or now >= job.not_before:
                job.asked = True
                self._call(job.take)
                output.wake_at = now
            else:
                output.wake_at = min(output.wake_at, job.not_before)
        return None

    def report(self) -> dict[str, object]:
        """For the status of the replica."""
        newest = self._memory.newest
        return {
            "slot": newest.mark.slot,
            "size": newest.size,
            "taken": self._taken,
            "under_way": self.under_way,
            "failure": self._failure,
        }

    def close(self) -> None:
        """Give up what is under way. The thread that applies has ended."""
        if self._job is not None:
            self._job.close()
            self._job = None

    def _is_due(self) -> bool:
        since = self._applied - self._applied_at_cut
        wanted = max(self._rules.minimum, int(self._rules.ratio * self._memory.newest.size))
        now = time.monotonic()
        kept = self._memory.kept
        pressed = False
        if kept is not None:
            # Half of the log: the other half takes what is applied while it is written.
            wanted = min(wanted, kept.log_size // 2)
            # The protocol has truncated what it may, and only a snapshot allows it more.
            full = kept.log_room < kept.log_size // 4
            pressed = full and since > 0 and now >= self._pressed_before
        return (since >= wanted or pressed) and now >= self._not_before

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._job = job = _Job(
            self._snapshots, self._engine, self._memory, lambda: self._applied, self._wake
        )
        self._call(job.open)

    def _collect(self, job: _Job, result: Snapshot | str) -> Snapshot | None:
        job.join()
        self._job = None
        now = time.monotonic()
        if isinstance(result, str):
            self._call(job.drop)
            self._failure = result
            self._not_before = now + RETRY
            log.warning(
                "no snapshot: %s. The log is kept; it is tried again in %.0f s", result, RETRY
            )
            return None
        self._failure = None
        self._applied_at_cut = job.applied_at_cut
        self._pressed_before = now + BREATH
        self._memory.took(result)
        self._taken += 1
        log.info(
            "snapshot of slot %d: %d bytes in %.1f s",
            result.mark.slot,
            result.size,
            now - self._began,
        )
        return result


class _End:
    """The image is complete: cut at this position."""

    def __init__(self, mark: Mark, time: int) -> None:
        self.mark = mark
        self.time = time


class _Job:
    """One snapshot, from the first chunk to the durable file. Three threads have to do with it:
    the loop's asks, the one that applies takes, the writer writes. A device that is slow or full,
    and the sync at the end, hold up nothing else."""

    def __init__(
        self,
        snapshots: Snapshots,
        engine: Engine,
        memory: Memory,
        applied: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self.asked = True
        """The thread that applies has something to do for it."""
        self.not_before = 0
        """Monotonic clock, nanoseconds: when the machine has had its share."""
        self.applied_at_cut = 0
        self.result: Snapshot | str | None = None
        """The snapshot, durable, or why there is none."""
        self._snapshots = snapshots
        self._engine = engine
        self._memory = memory
        self._applied = applied
        self._wake = wake
        self._source: ImageSource | None = None
        self._cut: _End | None = None
        self._work: queue.SimpleQueue[bytes | _End | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="snapshot-writer", daemon=True)
        self._thread.start()

    @property
    def wants_chunk(self) -> bool:
        return self._source is not None and not self.asked and self._work.qsize() < QUEUED

    def join(self) -> None:
        """There is a result: wait for the thread to be gone."""
        self._thread.join()

    def close(self) -> None:
        """Give up, when no other thread has to do with it any more but the writer."""
        if self.result is None:
            self._work.put("the replica stops")
        self.join()
        self.drop()

    # -- on the thread that applies, between two slots -----------------------------------

    def open(self) -> None:
        try:
            self._source = ImageSource(self._engine)
        except ImageError as error:
            self._work.put(str(error))
        self.asked = False

    def take(self) -> None:
        """The next chunk, to the writer."""
        source = self._source
        if source is None:
            return
        began = time.monotonic_ns()
        try:
            chunk = source.next(CHUNK)
        except ImageError as error:
            self.drop()
            self._work.put(str(error))
            return
        if self._cut is None and source.cut:
            # The image is of what is applied now: nothing has been since it was cut.
            self._cut = _End(*self._memory.position())
            self.applied_at_cut = self._applied()
        if chunk is not None:
            self._work.put(chunk)
        else:
            self.drop()
            self._work.put(self._cut or "the image has no position")
        ended = time.monotonic_ns()
        self.not_before = ended + PAUSE * (ended - began)
        self.asked = False

    def drop(self) -> None:
        """No more chunks are wanted."""
        if self._source is not None:
            self._source.close()
            self._source = None

    # -- on the writer's thread ----------------------------------------------------------

    def _run(self) -> None:
        try:
            writer = self._snapshots.begin()
        except OSError as error:
            self.result = _reason(error)
        else:
            try:
                self.result = self._write(writer)
            except OSError as error:
                writer.abandon()
                self.result = _reason(error)
        self._wake()

    def _write(self, writer: SnapshotWriter) -> Snapshot | str:
        while True:
            item = self._work.get()
            if isinstance(item, bytes):
                writer.add(item)
                if self._work.qsize() == QUEUED // 2:
                    self._wake()  # the loop may have stopped asking
            elif isinstance(item, _End):
                return writer.finish(item.mark, item.time)
            else:
                writer.abandon()
                return item


def _reason(error: OSError) -> str:
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
