"""Messages survive the wire; what does not fit is refused with a WireError."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpaxos import _native
from mpaxos.core.messages import (
    VALUE_CARRIERS,
    Accept,
    Accepted,
    AnyMessage,
    CatchupReply,
    CatchupRequest,
    Forward,
    Heartbeat,
    HeartbeatReply,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndexReply,
    ReadIndexRequest,
    Recover,
    RecoverReply,
    Reject,
    StateChunk,
    StateRefused,
    StateRequest,
    TakeOver,
)
from mpaxos.core.output import Output
from mpaxos.core.types import Ballot, Mark, Value
from mpaxos.errors import WireError
from mpaxos.net.adapter import NativePlane
from mpaxos.net.codec import decode, encode

BALLOT = Ballot(3, 1)
MARK = Mark(64, 2**64 - 1)


def value(number: int, time: int = 5) -> Value:
    return Value(_native.Batch.noop(1, 9, number), time)


def messages() -> list[AnyMessage]:
    """Made anew for each test: batches kept until the interpreter ends count as leaks."""
    return [
        Prepare(BALLOT, 1),
        Promise(BALLOT, 1, 2, 3, [(4, BALLOT), (5, Ballot(2, 0))], [value(1), value(2)]),
        Promise(BALLOT, 1, 2, 3, [(4, BALLOT)], [value(1)], [1, 2, 1]),
        Promise(BALLOT, 1, 2, 3, []),
        Accept(BALLOT, 7, 6, [value(3)]),
        Accepted(BALLOT, [7, 8], 5),
        Reject(BALLOT),
        PreVote(BALLOT, 1),
        PreVoteReply(BALLOT, True, BALLOT, 2**40),
        Heartbeat(BALLOT, 1, 2, 3, MARK),
        HeartbeatReply(BALLOT, 1, 2, 3, MARK),
        Forward([value(4, 0)]),
        Forward([value(4, 0), value(5, 0)]),
        CatchupRequest(1, 2),
        CatchupReply(1, 0, 9, [BALLOT], [value(6)]),
        CatchupReply(1, 1, 9, []),
        ReadIndexRequest(1),
        ReadIndexReply(1, 2),
        TakeOver(BALLOT),
        StateRequest(0, 0, 4 << 20),
        StateRequest(2**64 - 1, 2**40, 4 << 20, True),
        StateChunk(2**64 - 1, 2**40, 2**48, True, 2**41, 2**42, b"bytes"),
        StateRefused(5, "why"),
        Recover(7),
        RecoverReply(7, BALLOT, True, 9, 8, [1, 1, 7]),
    ]


NAMES = [type(message).__name__ for message in messages()]
each = pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)


@each
def test_round_trip(which: int) -> None:
    message = messages()[which]
    before = msgspec.structs.astuple(message)
    control, values = encode(message)
    assert decode(control, values) == message
    assert msgspec.structs.astuple(message) == before


def test_every_message_is_tried() -> None:
    assert {type(m) for m in messages()} == set(AnyMessage.__args__)


@each
def test_wrong_number_of_values(which: int) -> None:
    message = messages()[which]
    control, values = encode(message)
    if isinstance(message, StateChunk):
        wrong = [[], [(1, value(9).batch)]]
    elif isinstance(message, Forward):
        wrong = [[]]
    else:
        wrong = [[*values, (1, value(9).batch)], values[:-1]]
    for attachments in wrong:
        if len(attachments) == len(values):
            continue
        with pytest.raises(WireError, match="values"):
            decode(control, attachments)


def test_a_chunk_is_carried_by_no_other_message_and_not_inside() -> None:
    for message in messages():
        control, _ = encode(message)
        if not isinstance(message, StateChunk):
            with pytest.raises(WireError, match="carries no chunk"):
                decode(control, b"chunk")
    control, chunk = encode(StateChunk(1, 2, 3, False, 4, 5, b"chunk"))
    fields = msgspec.msgpack.decode(control)
    assert fields[-1] is None
    with pytest.raises(WireError, match="beside"):
        decode(msgspec.msgpack.encode([*fields[:-1], b"inside"]), chunk)


def test_values_inside_the_control_part() -> None:
    carriers = [m for m in messages() if isinstance(m, VALUE_CARRIERS) and m.values]
    for message in carriers:
        control, values = encode(message)
        fields = msgspec.msgpack.decode(control)
        for smuggled in ([[None, 1]], [[1, 2]], [1]):
            at = list(message.__struct_fields__).index("values") + 1  # behind the tag
            changed = [*fields[:at], smuggled, *fields[at + 1 :]]
            with pytest.raises(WireError):
                decode(msgspec.msgpack.encode(changed), values)


@pytest.mark.parametrize(
    "control",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode(["nonsense", 1]),
        msgspec.msgpack.encode(["prepare", [1, 2]]),
        msgspec.msgpack.encode(["prepare", [1, "x"], 1]),
        msgspec.msgpack.encode({"type": "prepare"}),
        msgspec.msgpack.encode(["prepare", [1, 2], 1])[:-1],
        msgspec.msgpack.encode(["prepare", [1, 2], 1]) + b"\x00",
        b"\x91" * 100_000,
    ],
)
def test_malformed_control_parts(control: bytes) -> None:
    with pytest.raises(WireError):
        decode(control, [])


@given(st.binary(max_size=64))
def test_random_bytes(control: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(control, [])


@given(st.integers(0, len(NAMES) - 1), st.data())
def test_changed_bytes(which: int, data: st.DataObject) -> None:
    message = messages()[which]
    control, values = encode(message)
    at = data.draw(st.integers(0, len(control) - 1))
    changed = bytearray(control)
    changed[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode(bytes(changed), values)


@pytest.mark.parametrize(
    "message",
    [
        Recover(1 << 62),
        Recover(-1),
        RecoverReply(1, BALLOT, False, 0, 0, [1] * 8),
        RecoverReply(1, BALLOT, False, 0, 0, [1, 1 << 62]),
        RecoverReply(1, Ballot(1 << 62, 0), False, 0, 0, []),
        Promise(BALLOT, 1, 0, 0, [], [], [-1]),
    ],
)
def test_lives_that_no_replica_can_be_in_are_dropped(message: AnyMessage) -> None:
    """They would be kept for ever."""
    stub: Any = _OneMessage(encode(message)[0])
    plane = NativePlane(stub)
    assert not plane.poll(Output()).events
    assert plane.counters()["undecodable"] == 1


class _OneMessage:
    """A native plane that hands out one message of a peer."""

    def __init__(self, control: bytes) -> None:
        self._event: tuple[Any, ...] = (_native.EVENT_PEER_MESSAGE, 1, control, [])

    def poll(
        self, until: int, room: int, quorum: bool, votes: bool, useful_upto: int
    ) -> tuple[int, list[Any]]:
        return 0, [self._event]

    def counters(self) -> dict[str, int]:
        return {}
