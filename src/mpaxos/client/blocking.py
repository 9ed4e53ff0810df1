"""The blocking twin of the client: the same working, in a thread of its own.

Safe to use from any number of threads. `submit` gives a future at once, so that one thread can keep
many requests in flight.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from mpaxos.client import wire
from mpaxos.client.aio import AsyncClient
from mpaxos.client.core import closed_error
from mpaxos.client.options import Addresses, Options
from mpaxos.client.stats import Stats
from mpaxos.errors import ClientError, Overloaded

T = TypeVar("T")

_Item = tuple[int, bytes, float | None, "Future[bytes]"]


class Client:
    """A session with a cluster, in bytes, for code without an event loop.

        with Client("127.0.0.1:3001,127.0.0.1:3002") as client:
            reply = client.call(b"...")

    The errors are those of AsyncClient. Times are seconds.
    """

    def __init__(
        self,
        addresses: Addresses,
        options: Options | None = None,
        *,
        machine: str | None = None,
    ) -> None:
        """`machine` is the class name that the cluster's state machine must have, None for any.
        Nothing is connected before the first call, or `open`. Raises ConfigError."""
        self._client = AsyncClient(addresses, options, machine=machine)
        self._inbox: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._draining = False
        self._closed = False
        # Twice the window keeps the pipeline full while `submit` does not queue without bound.
        self._places = threading.Semaphore(2 * self._client.options.window)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mpaxos-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close(drain=False)
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(drain=error is None)

    @property
    def stats(self) -> Stats:
        """Counters; see Stats."""
        return self._client.stats

    @property
    def options(self) -> Options:
        """The settings."""
        return self._client.options

    @property
    def replica(self) -> int | None:
        """The replica that serves this client now; None while there is none."""
        return self._client.replica

    @property
    def cluster_name(self) -> str | None:
        """As the cluster says; None before the first connection."""
        return self._client.cluster_name

    @property
    def machine_name(self) -> str | None:
        """The state machine, as the cluster says; None before the first connection."""
        return self._client.machine_name

    def open(self) -> None:
        """Wait until a session is open. Raises ConnectionFailed, NoQuorum or VersionMismatch when
        there is none within the deadline."""
        self._await(self._client.open())

    def call(self, request: bytes, *, deadline: float | None = None) -> bytes:
        """Run a command; returns its reply."""
        return self.submit(request, deadline=deadline).result()

    def query(self, request: bytes, *, deadline: float | None = None) -> bytes:
        """Answer a query, linearizable; returns the reply."""
        return self.submit(request, deadline=deadline, query=True).result()

    def submit(
        self, request: bytes, *, deadline: float | None = None, query: bool = False
    ) -> Future[bytes]:
        """Like `call` or `query`, but returns a future. Requests in flight at the same time may be
        run in any order. Blocks while twice the window is under way; raises Overloaded when that
        lasts for the deadline."""
        future: Future[bytes] = Future()
        limit = self.options.deadline if deadline is None else deadline
        # A callback of a future runs in the client's own thread, which must never wait for itself.
        if threading.get_ident() != self._thread.ident:
            if not self._places.acquire(timeout=limit):
                raise Overloaded("not executed: too many unanswered requests until the deadline")
            future.add_done_callback(self._left)
        with self._lock:
            if self._closed:
                future.cancel()
                raise closed_error()
            self._inbox.append((wire.QUERY if query else wire.COMMAND, request, limit, future))
            # One wake-up serves everything that is submitted until the loop looks.
            wake = not self._draining
            self._draining = True
            if wake:
                self._loop.call_soon_threadsafe(self._take)
        return future

    def close(self, *, drain: bool = True) -> None:
        """End the session and the thread. With `drain`, open requests are waited for (until their
        deadlines); what is open after that fails. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if threading.get_ident() == self._thread.ident:
            raise ClientError("close() was called from a callback of the client: call it outside")
        self._await(self._client.close(drain=drain))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # -------------------------------------------------------------- the client's thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _take(self) -> None:
        with self._lock:
            items, self._inbox = self._inbox, deque()
            self._draining = False
        for kind, request, deadline, future in items:
            # From here on it cannot be cancelled, so that the answer never meets a cancelled one.
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._client.enqueue(kind, request, deadline, future)
            except ClientError as error:
                future.set_exception(error)

    def _left(self, _: Future[bytes]) -> None:
        self._places.release()

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
