"""Turns whose writes are on their way to the device.

A disk takes a tenth of a millisecond to sync, or ten, or a second when it is in trouble. While it
is quick the loop waits for it, which is quicker than to hand the work to another thread and be
woken by it. Otherwise it does not: a turn's writes are submitted, and what depends on them is
*held*, its messages, decided batches and reads alike, until they are durable. Later turns are held
behind it, with writes of their own or without: whatever a turn says may rest on what the turns
before it wrote. So the replica does the very same things in the very same order as one that waits,
only later; and a crash loses the held turns as if they had not been taken.

Meanwhile the loop reads sockets and takes turns, and what they write goes to the device with one
sync (group commit).
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from mpaxos.core.output import Output
from mpaxos.storage.store import LaterStore

QUICK = 1_000_000
"""Nanoseconds: a device whose writes take less, on average of the last few, is waited for."""

MOST = 64
"""Turns that are held; beyond it the loop does wait, and what arrives stays in the sockets."""


class Held:
    """Outputs that wait for their writes, oldest first."""

    def __init__(
        self,
        store: LaterStore,
        *,
        quick: int = QUICK,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`quick`: 0 never waits."""
        self._store = store
        self._quick = quick
        self._clock = clock
        self._outputs: deque[tuple[int, Output]] = deque()
        self._ticket = 0
        self._took = 0
        """Nanoseconds that writes took lately."""
        self._timed: tuple[int, int] | None = None
        """A ticket on its way, and since when."""

    def __len__(self) -> int:
        return len(self._outputs)

    def take(self, output: Output) -> None:
        """Submit the writes of a turn, and hold what depends on them. Raises StorageError."""
        if output.writes and self._took < self._quick and not self._outputs:
            began = self._clock()
            self._store.write(output.writes)
            self._ticket = max(self._ticket, self._store.durable_upto())
            self._learn(self._clock() - began)
        elif output.writes:
            self._ticket = self._store.submit(output.writes)
            if self._timed is None:
                self._timed = (self._ticket, self._clock())
        if output.messages or output.decided or output.reads:
            self._outputs.append((self._ticket, output))

    def release(self) -> Iterator[Output]:
        """The outputs whose writes are durable, and those of all turns before. Raises
        StorageError."""
        if not self._outputs and self._timed is None:
            return
        durable = self._store.durable_upto()
        if len(self._outputs) > MOST and self._outputs[0][0] > durable:
            self._store.wait(self._outputs[0][0])
            durable = self._store.durable_upto()
        if self._timed is not None and self._timed[0] <= durable:
            self._learn(self._clock() - self._timed[1])
            self._timed = None
        while self._outputs and self._outputs[0][0] <= durable:
            yield self._outputs.popleft()[1]

    def _learn(self, took: int) -> None:
        self._took += (took - self._took) // 8

    def wait(self) -> None:
        """Return when all that was submitted is durable. Raises StorageError."""
        self._store.wait(self._ticket)


class DurableWatch:
    """Wakes the loop when more is durable: a thread that sleeps on the store's eventfd."""

    def __init__(self, descriptor: int, wake: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._wake = wake
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._worker = threading.Thread(target=self._run, name="durable-watch", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """End the thread. The store must still be open."""
        os.eventfd_write(self._stop, 1)
        self._worker.join()
        os.close(self._stop)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poller.poll()]
            if self._stop in ready:
                return
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)
            self._wake()
