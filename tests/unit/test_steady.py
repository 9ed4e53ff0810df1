"""The native part of the protocol: its messages are those of the codec, mandates are checked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpaxos import _native
from mpaxos.core import messages as m
from mpaxos.core.messages import AnyMessage
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Standing
from mpaxos.core.types import Ballot, Mark, Value
from mpaxos.errors import InvariantViolated, WireError
from mpaxos.net import codec
from mpaxos.runtime.steady import NativeSteady, native_steady

EDGES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**62 - 1]
numbers = st.sampled_from(EDGES) | st.integers(0, 2**62 - 1)
digests = numbers | st.integers(0, 2**64 - 1)
ballots = st.builds(Ballot, numbers, st.integers(0, 6))
marks = st.builds(Mark, numbers, digests)
BATCH = _native.Batch.noop(1, 2, 3)


@given(ballots, numbers, numbers, numbers, marks)
def test_letters_are_what_the_codec_makes(
    ballot: Ballot, slot: int, decided: int, applied: int, mark: Mark
) -> None:
    made: dict[str, AnyMessage] = {
        "accept": m.Accept(ballot, slot, decided, [Value(BATCH, 7)]),
        "accepted": m.Accepted(ballot, [slot], applied),
        "forward": m.Forward([Value(BATCH, 0)]),
        "heartbeat": m.Heartbeat(ballot, slot, decided, applied, mark),
        "alive": m.HeartbeatReply(ballot, slot, decided, applied, mark),
    }
    for kind, message in made.items():
        control, values = codec.encode(message)
        assert _native.Steady.encoded(kind, ballot, slot, decided, applied, mark) == control
        found = _native.Steady.decoded(control, len(values))
        assert found is not None and found[0] == kind
        if kind == "forward":
            continue
        assert found[1] == ballot
        assert found[2] == ([slot] if kind == "accepted" else slot)
        assert found[3] == (0 if kind == "accepted" else decided)
        assert found[4] == (0 if kind == "accept" else applied)
        assert found[5] == (mark if kind in ("heartbeat", "alive") else (0, 0))
        assert found[6] is True


def test_votes_of_many_slots_and_accepts_without_one_are_read() -> None:
    control, _ = codec.encode(m.Accepted(Ballot(1, 2), list(range(1, 40)), 3))
    found = _native.Steady.decoded(control, 0)
    assert found is not None and found[2] == list(range(1, 40))
    control, values = codec.encode(m.Accept(Ballot(1, 2), 5, 0, [Value(BATCH, 7)], vote=False))
    found = _native.Steady.decoded(control, len(values))
    assert found is not None and found[6] is False


@given(st.data())
def test_what_is_read_otherwise_is_left_to_the_codec(data: Any) -> None:
    """Whatever the bytes: read alike by both, or not at all."""
    message = m.Heartbeat(Ballot(3, 1), 300, 2**40, 5, Mark(32, 2**63))
    control = bytearray(
        codec.encode(data.draw(st.sampled_from([message, m.Accepted(Ballot(3, 1), [9], 4)])))[0]
    )
    for _ in range(data.draw(st.integers(0, 3))):
        control[data.draw(st.integers(0, len(control) - 1))] = data.draw(st.integers(0, 255))
    control = control[: data.draw(st.integers(0, len(control)))] + data.draw(st.binary(max_size=2))
    found = _native.Steady.decoded(bytes(control), 0)
    if found is None:
        return
    read = codec.decode(bytes(control), [])
    assert isinstance(read, m.Heartbeat | m.HeartbeatReply | m.Accepted)
    assert read.ballot == found[1]
    if isinstance(read, m.Accepted):
        assert (
            read.slots == ([found[2]] if isinstance(found[2], int) else found[2]) or not read.slots
        )
        assert read.applied_upto == found[4]
    else:
        assert (read.number, read.decided_upto) == (found[2], found[3])


@pytest.mark.parametrize(
    "message",
    [
        m.Prepare(Ballot(1, 2), 3),
        m.Reject(Ballot(1, 2)),
        m.ReadIndexRequest(5),
        m.Accepted(Ballot(1, 9), [1], 1),
        m.Accepted(Ballot(1, 2), [2**62], 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_other_messages_are_not_ordinary(message: AnyMessage) -> None:
    assert _native.Steady.decoded(codec.encode(message)[0], 0) is None


def test_values_have_to_fit() -> None:
    accept = codec.encode(m.Accept(Ballot(1, 2), 5, 0, [Value(BATCH, 7)]))[0]
    assert _native.Steady.decoded(accept, 0) is None
    assert _native.Steady.decoded(accept, 2) is None
    with pytest.raises(WireError):
        codec.decode(accept, [])
    assert _native.Steady.decoded(codec.encode(m.Forward([]))[0], 0) is None


def steady(**changes: Any) -> NativeSteady:
    settings = msgspec.structs.replace(Settings(replica=0, replicas=3), **changes)
    native = native_steady(settings, log_size=1 << 20, epoch=0, incarnation=4)
    return NativeSteady(native, None)


def standing(**changes: Any) -> Standing:
    made = Standing(
        ballot=Ballot(1, 0),
        now=0,
        decided=5,
        applied=5,
        newest=Mark(0, 0),
        agreed=Mark(0, 0),
        room=1 << 20,
        decided_time=0,
        flights=[],
        outbox=[],
    )
    return msgspec.structs.replace(made, **changes)


def test_a_mandate_that_was_not_used_leads_nowhere() -> None:
    taker = steady()
    assert not taker.active and taker.end() is None
    taker.begin(standing())
    assert taker.active
    assert taker.end() is None
    assert not taker.active


@pytest.mark.parametrize(
    ("flights", "text"),
    [
        ([(7, 0, 0, 1, BATCH)], "a hole"),
        ([(6, 0, 0, 1, BATCH), (8, 0, 0, 1, BATCH)], "a hole"),
        ([(5, 0, 0, 1, BATCH)], "outside of the horizon"),
        ([(5 + 33, 0, 0, 1, None)], "outside of the horizon"),
    ],
)
def test_a_mandate_that_cannot_be_right_is_refused(flights: list[Any], text: str) -> None:
    taker = steady()
    with pytest.raises(InvariantViolated, match=text):
        taker.begin(standing(flights=flights))


def test_two_mandates_at_once_are_refused() -> None:
    taker = steady()
    taker.begin(standing())
    with pytest.raises(InvariantViolated, match="another one"):
        taker.begin(standing())
