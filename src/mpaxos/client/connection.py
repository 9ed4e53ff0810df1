"""One connection to one replica: handshake, frames in and out. Knows nothing of requests."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from mpaxos.client import wire
from mpaxos.errors import VersionMismatch, WireError


class Owner(Protocol):
    """Whoever holds the connection. Called from the event loop, never after `lost`."""

    def welcomed(self, connection: Connection, welcome: wire.Welcome) -> None:
        """The replica said who it is. May raise WireError or VersionMismatch to refuse it."""

    def ready(self, connection: Connection) -> None:
        """The session is open: requests may be sent."""

    def replied(self, connection: Connection, payload: bytes) -> None:
        """A frame of replies."""

    def writable(self, connection: Connection) -> None:
        """The socket takes more again."""


class Connection(asyncio.Protocol):
    """Connects the session `session` (0: a new one); closes itself on anything malformed."""

    def __init__(self, owner: Owner, window: int, session: int) -> None:
        loop = asyncio.get_running_loop()
        self.loop = loop
        self._owner = owner
        self._window = window
        self._reader = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self.session = session
        self.welcome: wire.Welcome | None = None
        self.is_ready = False
        self.was_ready = False
        self.paused = False
        self.useful = False
        """It brought something on: the next attempt need not be delayed."""
        self.quiet_since = loop.time()
        """Since when the replica owes us something and has sent nothing."""
        self.trouble: Exception | str = "the replica closed the connection"
        """Why it ended."""
        self.lost: asyncio.Future[None] = loop.create_future()

    def send(self, kind: int, payload: bytes) -> None:
        """Send one frame; lost silently when the connection is."""
        if self._transport is not None:
            self._transport.write(wire.frame(kind, payload))

    def abort(self, trouble: Exception | str) -> None:
        """End the connection now; `lost` follows."""
        if not self.lost.done():
            self.trouble = trouble
            # From here on nothing that still arrives counts.
            self.is_ready = False
            self.lost.set_result(None)
        if self._transport is not None:
            self._transport.abort()

    # -------------------------------------------------------------- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(wire.hello(self._window, self.session))

    def connection_lost(self, error: Exception | None) -> None:
        self.abort(error or self.trouble)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.is_ready:
            self._owner.writable(self)

    def data_received(self, data: bytes) -> None:
        self.quiet_since = self.loop.time()
        try:
            for kind, payload in self._reader.feed(data):
                if self.lost.done():
                    return
                self._handle(kind, payload)
        except (WireError, VersionMismatch) as error:
            self.abort(error)

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == wire.BYE:
            reason = payload[:500].decode(errors="replace")
            self.abort(f"the replica closed the connection: {reason}")
        elif kind == wire.WELCOME and self.welcome is None:
            welcome = wire.parse_welcome(payload)
            self._owner.welcomed(self, welcome)
            self.welcome = welcome
            if welcome.session != 0:
                self._open(welcome.session)
        elif kind == wire.OPENED and self.welcome is not None and not self.is_ready:
            self._open(wire.parse_opened(payload))
        elif kind == wire.REPLIES and self.welcome is not None:
            self._owner.replied(self, payload)
        else:
            raise WireError(f"a frame of kind {kind} is not due here")

    def _open(self, session: int) -> None:
        if self.session not in (0, session):
            raise WireError("the replica opened another session than the one asked for")
        self.session = session
        self.is_ready = self.was_ready = True
        self._owner.ready(self)
