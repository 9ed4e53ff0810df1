"""The native plane as the loop sees it: tuples become events of the protocol and back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from mpaxos import _native
from mpaxos.core.messages import (
    Accepted,
    AnyMessage,
    Envelope,
    HeartbeatReply,
    Message,
    StateChunk,
)
from mpaxos.core.output import (
    Event,
    LocalBatch,
    LocalReads,
    Output,
    PeerDown,
    PeerUp,
    Received,
)
from mpaxos.errors import StorageForgotten, WireError, invariant
from mpaxos.net import codec
from mpaxos.net.plane import AdminRequest, Notice, Polled

MAX_REPLICAS = 7

log = logging.getLogger("mpaxos.net")

_NativeValues = list[tuple[int, _native.Batch]]


def _fields_by_kind(*wanted: str) -> dict[type[Message], tuple[str, ...]]:
    return {
        kind: tuple(name for name in wanted if name in kind.__struct_fields__)
        for kind in Message.__subclasses__()
    }


VOTES = (Accepted, HeartbeatReply)
"""Answers that more than are needed come of: the rest is not worth a turn (Output.votes)."""

_BALLOTS = _fields_by_kind("ballot", "promised")
_LIVES = _fields_by_kind("lives", "life")


class NativePlane:
    """Wraps a `_native.Plane`; implements mpaxos.net.plane.Plane for native replies."""

    def __init__(
        self, plane: _native.Plane, meet: Callable[[int, int, int], None] | None = None
    ) -> None:
        """`meet`: called with replica, life and birth when another replica comes with data that it
        was not met with before (mpaxos.storage.lives)."""
        self._plane = plane
        self._meet = meet
        self._undecodable = 0

    def poll(self, output: Output) -> Polled:
        """See Plane.poll. A peer's message that does not decode is logged, counted, dropped.

        Raises StorageForgotten when a peer has met this replica with other data.
        """
        now, raw = self._plane.poll(
            output.wake_at, output.room, output.quorum, output.votes, output.useful_upto
        )
        polled = Polled(now, [], [], [])
        for item in raw:
            self._take(item, polled)
        return polled

    def _take(self, item: tuple[Any, ...], polled: Polled) -> None:
        event: Event
        kind = item[0]
        if kind == _native.EVENT_PEER_MESSAGE:
            _, peer, control, values = item
            try:
                event = Received(peer, self._check(codec.decode(control, values)))
            except WireError as error:
                self._undecodable += 1
                log.warning("dropped a message of replica %d: %s", peer, error)
                return
        elif kind == _native.EVENT_BATCH:
            event = LocalBatch(item[1])
        elif kind == _native.EVENT_READS:
            event = LocalReads(item[1])
        elif kind == _native.EVENT_PEER_UP:
            event = PeerUp(item[1])
        elif kind == _native.EVENT_PEER_DOWN:
            event = PeerDown(item[1])
        elif kind == _native.EVENT_ADMIN:
            polled.admin.append(AdminRequest(item[1], item[2]))
            return
        elif kind == _native.EVENT_NOTICE:
            polled.notices.append(Notice(item[1], item[2], item[3]))
            return
        elif kind == _native.EVENT_MET:
            if self._meet is not None:
                self._meet(item[1], item[2], item[3])
            return
        else:
            invariant(kind == _native.EVENT_ESTRANGED, f"an event of unknown kind {kind}")
            raise StorageForgotten(item[2])
        polled.events.append(event)

    def serve(self, hand_over: _native.HandOver) -> None:
        """Notice what the machine's thread has done."""
        self._plane.serve(hand_over)

    def attach(
        self, steady: _native.Steady, pool: _native.Pool, engine: _native.Engine | None
    ) -> None:
        """Take ordinary turns within poll() whenever `steady` has a mandate; what they decide is
        applied by `engine`, or handed over to the machine's thread (serve)."""
        self._plane.attach(steady, pool, engine)

    def _check(self, message: AnyMessage) -> AnyMessage:
        """Refuse a ballot or a life that no replica can hold. The types allow it, the protocol
        would keep it for ever."""
        kind = type(message)
        for name in _BALLOTS[kind]:
            ballot = getattr(message, name)
            if ballot is None:
                continue
            round_, leader = ballot
            if not (0 <= leader < MAX_REPLICAS and 0 <= round_ < 1 << 62):
                raise WireError(f"a ballot that no replica can hold: {ballot}")
        # Lives are kept for ever, too.
        for name in _LIVES[kind]:
            found = getattr(message, name)
            lives = found if isinstance(found, list) else [found]
            if len(lives) > MAX_REPLICAS or not all(0 <= life < 1 << 62 for life in lives):
                raise WireError(f"lives that no replicas can be in: {lives}")
        return message

    def send(self, messages: list[Envelope]) -> None:
        """See Plane.send. A message for several peers is encoded once."""
        encoded: dict[int, tuple[bytes, codec.Beside]] = {}
        for envelope in messages:
            # Identity is enough as a key: `messages` keeps all of them alive meanwhile.
            key = id(envelope.message)
            if key not in encoded:
                encoded[key] = codec.encode(envelope.message)
            control, values = encoded[key]
            if isinstance(envelope.message, StateChunk):
                self._plane.send_chunk(envelope.to, control, values)
                continue
            vote = isinstance(envelope.message, VOTES)
            self._plane.send(envelope.to, control, cast(_NativeValues, values), vote)

    def deliver(self, replies: _native.ReplySet) -> None:
        """See Plane.deliver."""
        self._plane.deliver(replies)

    def answer(self, token: int, data: bytes) -> None:
        """See Plane.answer."""
        self._plane.answer(token, data)

    def flush(self) -> None:
        """See Plane.flush."""
        self._plane.flush()

    def wake(self) -> None:
        """See Plane.wake."""
        self._plane.wake()

    def counters(self) -> dict[str, int]:
        """The native counters and `undecodable`, messages of peers that did not decode."""
        return {**self._plane.counters(), "undecodable": self._undecodable}

    def close(self) -> None:
        """See Plane.close."""
        self._plane.close()
