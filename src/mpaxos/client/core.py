"""The working of a client: requests in, answers out, over one connection at a time.

When the connection breaks, or the replica falls silent, the next replica is tried with the same
session, and every unanswered request is sent again under its own sequence: it is run at most once,
no matter how many copies arrive. A request that is not answered by its deadline is given up and
never sent again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from functools import partial

import msgspec

from mpaxos.client import wire
from mpaxos.client.connection import Connection
from mpaxos.client.ledger import Answer, Ledger, Request
from mpaxos.client.options import Addresses, Options, parse_addresses
from mpaxos.client.rotation import Rotation
from mpaxos.client.stats import Stats
from mpaxos.errors import (
    ClientError,
    CommandFailed,
    ConnectionFailed,
    NoQuorum,
    NoSpace,
    Overloaded,
    RequestTooLarge,
    VersionMismatch,
    WireError,
)

_FRAME_BYTES = 256 << 10
"""Requests made together travel in frames up to this size (one request alone may exceed it)."""

_TICK = 0.05
"""Seconds between looks at deadlines and stalls."""

_OVERLOAD_DELAY, _LONGEST_OVERLOAD_DELAY = 0.01, 0.5
"""Seconds before requests refused by full queues are sent again, doubling."""

_STUCK_FACTOR = 3
"""A single request open for so many stall timeouts makes us try another replica as well."""


class ClientCore:
    """Everything below the public methods of AsyncClient. Lives in one event loop."""

    def __init__(self, addresses: Addresses, options: Options, machine: str | None) -> None:
        self.options = options
        self.stats = Stats()
        self._rotation = Rotation(parse_addresses(addresses))
        self._machine = machine
        self._ledger = Ledger(options.window)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False
        self._flushing = False
        self._retry: list[Request] = []
        self._overloads = 0
        self._connected_before = False
        self._welcome: wire.Welcome | None = None
        self._refusing = False
        self._openers: set[asyncio.Future[None]] = set()
        self._drained: asyncio.Future[None] | None = None
        self._closing_reply: tuple[int, asyncio.Future[None]] | None = None
        self._closed = False

    # -------------------------------------------------------------- requests

    def enqueue(self, kind: int, request: bytes, deadline: float | None, answer: Answer) -> None:
        """Take a request whose answer goes to any kind of future. From the event loop's thread."""
        loop = self._start()
        now = loop.time()
        if not len(self._ledger):
            self.stats.became_busy(now)
            if self._connection is not None:
                self._connection.quiet_since = now
        limit = self.options.deadline if deadline is None else deadline
        self._ledger.add(Request(kind, request, now + limit, answer))
        if not self._flushing:
            # Everything that is asked for in this turn of the loop leaves in one frame.
            self._flushing = True
            loop.call_soon(self._flush)
        if not self._ticking:
            self._arm()

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise closed_error()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
            self._connecting = loop.create_task(self._keep_connected())
        return loop

    def _flush(self) -> None:
        self._flushing = False
        connection = self._connection
        if connection is None or not connection.is_ready or connection.paused:
            return
        admitted = self._ledger.admit()
        if admitted:
            self._send(connection, admitted)

    def _send(self, connection: Connection, requests: Iterable[Request]) -> None:
        now = connection.loop.time()
        ledger, session = self._ledger, connection.session
        limit = connection.welcome.max_request if connection.welcome else 0
        lowest = ledger.lowest()
        header = wire.entry_header
        parts: list[bytes] = []
        size = count = 0
        for request in requests:
            payload = request.payload
            length = len(payload)
            if length > limit:
                ledger.forget(request)
                request.fail(
                    RequestTooLarge(f"the request has {length} bytes; the cluster takes {limit}")
                )
                continue
            if size and size + length > _FRAME_BYTES:
                connection.send(wire.REQUESTS, b"".join(parts))
                parts.clear()
                size = 0
            parts.append(header(session, request.sequence, lowest, length, request.kind))
            parts.append(payload)
            size += wire.ENTRY_HEADER + length
            count += 1
            request.attempts += 1
            request.sent_at = now
        if parts:
            connection.send(wire.REQUESTS, b"".join(parts))
        self.stats.sent += count

    # -------------------------------------------------------------- the connection's calls

    def welcomed(self, connection: Connection, welcome: wire.Welcome) -> None:
        first = self._welcome
        if first is not None and first.cluster != welcome.cluster:
            # Its sessions are not ours: a request sent there could run a second time.
            raise WireError(f"the replica belongs to another cluster ({welcome.cluster_name})")
        wanted = self._machine
        if wanted is not None and not wire.names_machine(welcome.machine, wanted):
            raise VersionMismatch(
                f"the cluster runs the state machine {welcome.machine}, not {wanted}: connect to "
                "another cluster or with another class"
            )
        self._welcome = welcome

    def ready(self, connection: Connection) -> None:
        ledger = self._ledger
        if ledger.session == 0:
            connection.useful = True
            ledger.session = connection.session
        if self._connected_before:
            self.stats.reconnects += 1
        self._connected_before = True
        self._retry.clear()
        self._opened(None)
        again = [r for r in ledger.in_flight() if not r.answer.done()]
        if again:
            self._send(connection, again)
        self._flush()

    def writable(self, connection: Connection) -> None:
        self._flush()

    def replied(self, connection: Connection, payload: bytes) -> None:
        ledger = self._ledger
        commands, queries = ledger.commands, ledger.queries
        answered = 0
        refused = expired = False
        for sequence, status, body in wire.parse_replies(payload):
            table = commands if sequence < wire.FIRST_QUERY else queries
            request = table.get(sequence)
            if request is None:
                self._closing_replied(sequence)
            elif status == wire.OK:
                del table[sequence]
                answered += 1
                if not request.answer.done():
                    request.answer.set_result(body)
            elif status == wire.REFUSED or status == wire.OVERLOADED:
                request.attempts = max(0, request.attempts - 1)
                request.refused = status
                if status == wire.REFUSED:
                    refused = True
                else:
                    self._retry_later(request)
            elif status == wire.EXPIRED:
                expired = True
            else:
                del table[sequence]
                answered += 1
                request.fail(_error(status, body))
        if answered:
            connection.useful = True
            self._refusing = False
            self._overloads = 0
            self.stats.was_answered(answered, connection.loop.time())
        if expired:
            ledger.expire_session()
            connection.abort("the session has expired")
        elif refused:
            self._refusing = True
            connection.useful = False
            connection.abort("the replica cannot reach a majority")
        elif answered and not self._flushing:
            self._flush()
        self._check_drained()

    def _closing_replied(self, sequence: int) -> None:
        waiting = self._closing_reply
        if waiting is not None and waiting[0] == sequence and not waiting[1].done():
            waiting[1].set_result(None)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._drained.done() and not len(self._ledger):
            self._drained.set_result(None)

    def _retry_later(self, request: Request) -> None:
        if not self._retry and self._loop is not None:
            delay = min(_LONGEST_OVERLOAD_DELAY, _OVERLOAD_DELAY * 2 ** min(self._overloads, 6))
            self._overloads += 1
            self._loop.call_later(delay * random.uniform(0.5, 1.0), self._send_retries)
        self._retry.append(request)

    def _send_retries(self) -> None:
        requests, self._retry = self._retry, []
        connection = self._connection
        if connection is not None and connection.is_ready:
            find = self._ledger.find
            again = [r for r in requests if find(r.sequence) is r and not r.answer.done()]
            if again:
                self._send(connection, again)

    # -------------------------------------------------------------- staying connected

    async def _keep_connected(self) -> None:
        try:
            while not self._closed:
                trouble = await self._one_connection()
                if self._rotation.all_mismatch:
                    text = str(trouble)
                    self._ledger.fail_waiting(partial(VersionMismatch, text))
                    self._opened(VersionMismatch(text))
                await asyncio.sleep(self._rotation.delay())
        except Exception as error:
            # Nobody would ever answer the callers: tell them.
            self._closed = True
            text = f"the client failed: {type(error).__name__}: {error}"
            self._ledger.fail_all(lambda: ClientError(text))
            self._opened(ClientError(text))
            self._check_drained()
            raise

    async def _one_connection(self) -> Exception | str:
        """Connect to the next replica and stay; returns why it ended."""
        loop = asyncio.get_running_loop()
        host, port = self._rotation.current()
        window, session = self.options.window, self._ledger.session
        trouble: Exception | str = "no answer"
        try:
            async with asyncio.timeout(self.options.stall_timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, window, session), host, port
                )
        except (OSError, ValueError) as error:
            if not isinstance(error, TimeoutError):
                code = getattr(error, "errno", None) or 0
                trouble = os.strerror(code) if code > 0 else error
            self._rotation.ended(trouble, reached=False, useful=False)
            return trouble
        self._connection = connection
        self._arm()
        try:
            await connection.lost
        finally:
            self._connection = None
        reached = connection.welcome is not None
        if reached and not connection.was_ready:
            self._refusing = True  # a session is opened through the log: there was no majority
        self._rotation.ended(connection.trouble, reached=reached, useful=connection.useful)
        return connection.trouble

    def _opened(self, error: ClientError | None) -> None:
        """Wake those who wait for a session."""
        for opener in self._openers:
            if opener.done():
                continue
            if error is None:
                opener.set_result(None)
            else:
                opener.set_exception(error)

    def _unsent(self) -> ClientError:
        """The error of a request that was never sent."""
        connection = self._connection
        if connection is not None and connection.is_ready:
            return Overloaded(
                "not executed: the window was full of unanswered requests until the deadline"
            )
        if not self._rotation.none_reachable and (
            self._refusing or (connection is not None and connection.welcome is not None)
        ):
            return NoQuorum("not executed: no majority of the replicas can be reached; try later")
        return ConnectionFailed(
            f"no replica could be reached; the last attempt: {self._rotation.trouble}"
        )

    # -------------------------------------------------------------- deadlines and stalls

    def _arm(self) -> None:
        if not self._ticking and self._loop is not None:
            self._ticking = True
            self._loop.call_later(_TICK, self._tick, self._loop.time() + _TICK)

    def _tick(self, due: float) -> None:
        self._ticking = False
        if self._loop is None or self._closed:
            return
        now = self._loop.time()
        ledger, connection = self._ledger, self._connection
        ledger.expire(now, self._unsent)
        if connection is not None and now - due > self.options.stall_timeout / 2:
            # It was this process that stood still: what the replica sent may not be read yet.
            connection.quiet_since = now
        elif connection is not None and self._stalled(connection, now):
            connection.abort(f"nothing came for {self.options.stall_timeout} s")
        elif not self._flushing:
            self._flush()  # what was given up may have made room
        self._check_drained()
        if len(ledger) or self._openers or (connection is not None and not connection.is_ready):
            self._arm()

    def _stalled(self, connection: Connection, now: float) -> bool:
        limit = self.options.stall_timeout
        if not connection.is_ready:
            return now - connection.quiet_since > limit
        oldest = min((r.sent_at for r in self._ledger.in_flight() if r.sent_at), default=now)
        quiet = now - max(connection.quiet_since, oldest)
        return quiet > limit or now - oldest > _STUCK_FACTOR * limit


def closed_error() -> ClientError:
    """What calls on a closed client get."""
    return ClientError("the client is closed: make a new one")


def _error(status: int, body: bytes) -> ClientError:
    """The error that a status other than OK stands for."""
    if status == wire.FAILED:
        try:
            kind, message = msgspec.msgpack.decode(body, type=tuple[str, str])
        except (msgspec.DecodeError, ValueError):
            return ClientError("the command failed with an error that cannot be read")
        return CommandFailed(kind, message)
    text = body.decode(errors="replace")
    if status == wire.NOSPACE:
        return NoSpace(text or "not executed: the state has reached the cluster's size limit")
    if status == wire.BAD:
        return ClientError(f"the request was refused as malformed: {text}")
    return ClientError(f"a reply of unknown status {status}: use the cluster's version of mpaxos")
