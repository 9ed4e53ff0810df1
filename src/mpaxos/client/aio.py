"""The asyncio client."""

from __future__ import annotations

import asyncio
from typing import Self

from mpaxos.client import wire
from mpaxos.client.core import ClientCore, closed_error
from mpaxos.client.options import Addresses, Options


class AsyncClient(ClientCore):
    """A session with a cluster, in bytes. Use it within one event loop.

        async with AsyncClient("127.0.0.1:3001,127.0.0.1:3002") as client:
            reply = await client.call(b"...")

    Many requests may be in flight; those that are at the same time may be run in any order. All
    calls raise the errors of mpaxos.errors: CommandFailed, NoSpace, and ClientError for a request
    the state machine does not understand; RequestTooLarge, Overloaded, NoQuorum, ConnectionFailed,
    VersionMismatch when the request was surely not executed; OutcomeUnknown and SessionExpired when
    it may have been.
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
        super().__init__(addresses, options or Options(), machine)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.close(drain=error is None)

    async def open(self) -> None:
        """Wait until a session is open. Raises ConnectionFailed, NoQuorum or VersionMismatch when
        there is none within the deadline."""
        self._start()
        if self._connection is not None and self._connection.is_ready:
            return
        opener: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._openers.add(opener)
        self._arm()
        try:
            async with asyncio.timeout(self.options.deadline):
                await opener
        except TimeoutError:
            raise self._unsent() from None
        finally:
            self._openers.discard(opener)

    async def call(self, request: bytes, *, deadline: float | None = None) -> bytes:
        """Run a command; returns its reply. `deadline` in seconds."""
        return await self.submit(request, deadline=deadline)

    async def query(self, request: bytes, *, deadline: float | None = None) -> bytes:
        """Answer a query, linearizable; returns the reply. `deadline` in seconds."""
        return await self.submit(request, deadline=deadline, query=True)

    def submit(
        self, request: bytes, *, deadline: float | None = None, query: bool = False
    ) -> asyncio.Future[bytes]:
        """Like `call` or `query`, without waiting: the future has the reply. Requests in flight at
        the same time may be run in any order."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.enqueue(wire.QUERY if query else wire.COMMAND, request, deadline, future)
        return future

    @property
    def cluster_name(self) -> str | None:
        """As the cluster says; None before the first connection."""
        return self._welcome.cluster_name if self._welcome else None

    @property
    def machine_name(self) -> str | None:
        """The state machine, as the cluster says; None before the first connection."""
        return self._welcome.machine if self._welcome else None

    @property
    def replica(self) -> int | None:
        """The replica that serves this client now; None while there is none."""
        connection = self._connection
        if connection is None or not connection.is_ready or connection.welcome is None:
            return None
        return connection.welcome.replica

    async def close(self, *, drain: bool = True) -> None:
        """End the session. With `drain`, open requests are waited for (until their deadlines);
        what is open after that fails. Waits only shortly for the cluster's confirmation."""
        if self._closed or self._loop is None:
            self._closed = True
            return
        if drain and len(self._ledger):
            self._drained = self._loop.create_future()
            await self._drained
        self._closed = True
        self._ledger.fail_all(closed_error)
        self._opened(closed_error())
        await self._close_session()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection is not None:
            self._connection.abort("closed")

    async def _close_session(self) -> None:
        connection = self._connection
        if connection is None or not connection.is_ready or self._loop is None:
            return
        sequence = self._ledger.closing_sequence()
        reply: asyncio.Future[None] = self._loop.create_future()
        self._closing_reply = (sequence, reply)
        connection.send(
            wire.REQUESTS,
            wire.entry_header(connection.session, sequence, sequence, 0, wire.CLOSE),
        )
        await asyncio.wait(
            (reply, connection.lost),
            timeout=self.options.close_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
