"""The real plane: sockets in C++, seen as mpaxos.net.plane.Plane."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from mpaxos import _native
from mpaxos.core.messages import Envelope
from mpaxos.core.output import Event, LocalBatch, LocalReads, Output, PeerDown, PeerUp, Received
from mpaxos.core.types import Ballot
from mpaxos.errors import WireError
from mpaxos.net import codec
from mpaxos.net.plane import AdminRequest, Notice, Polled


class NativePlane:
    """Turns the extension's events into those of the protocol, and messages into bytes."""

    def __init__(self, *, replica: int, peers: dict[int, tuple[str, int]], **options: Any) -> None:
        """Options are those of mpaxos._native.Plane. Raises ConfigError when a port cannot be
        bound."""
        self._plane = _native.Plane(replica=replica, peers=peers, **options)
        self._replicas = len(peers) + 1
        self._malformed: Counter[str] = Counter()
        self.ports = self._plane.ports
        self.deliver = self._plane.deliver
        self.answer = self._plane.answer
        self.flush = self._plane.flush
        self.wake = self._plane.wake
        self.close = self._plane.close
        self.set_identity = self._plane.set_identity

    def poll(self, output: Output) -> Polled:
        now, raw = self._plane.poll(output.wake_at, output.room, output.quorum)
        polled = Polled(now, [], [], [])
        for event in raw:
            self._take(polled, cast(Any, event))
        return polled

    def send(self, messages: list[Envelope]) -> None:
        encoded: dict[int, tuple[bytes, codec.Attachments]] = {}
        for envelope in messages:
            message = envelope.message
            # A broadcast is the same object in every envelope: encode it once.
            parts = encoded.get(id(message))
            if parts is None:
                parts = encoded[id(message)] = codec.encode(message)
            self._plane.send(envelope.to, *parts)

    def counters(self) -> dict[str, int]:
        return {**self._plane.counters(), **self._malformed}

    def _take(self, polled: Polled, event: tuple[Any, ...]) -> None:
        kind = event[0]
        made: Event
        if kind == _native.EVENT_PEER_MESSAGE:
            _, peer, control, values = event
            try:
                message = codec.decode(control, values)
                self._check(message)
            except WireError as error:
                self._malformed["peer_malformed"] += 1
                polled.notices.append(Notice("peer", f"replica {peer}", f"ignored: {error}"))
                return
            made = Received(peer, message)
        elif kind == _native.EVENT_BATCH:
            made = LocalBatch(event[1])
        elif kind == _native.EVENT_READS:
            made = LocalReads(event[1])
        elif kind == _native.EVENT_PEER_UP:
            made = PeerUp(event[1])
        elif kind == _native.EVENT_PEER_DOWN:
            made = PeerDown(event[1])
        elif kind == _native.EVENT_ADMIN:
            polled.admin.append(AdminRequest(event[1], event[2]))
            return
        else:
            polled.notices.append(Notice(*event[1:]))
            return
        polled.events.append(made)

    def _check(self, message: object) -> None:
        """Fields that the types allow and the protocol could not bear."""
        for name in ("ballot", "promised"):
            ballot = getattr(message, name, None)
            if isinstance(ballot, Ballot) and not (
                0 <= ballot.leader < self._replicas and 0 <= ballot.round < 1 << 62
            ):
                raise WireError(f"a ballot of a replica that does not exist: {ballot}")
