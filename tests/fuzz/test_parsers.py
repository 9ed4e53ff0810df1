"""Hypothesis on every format that has a parser in Python: parsed, or a typed error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpaxos.client import wire
from mpaxos.core.messages import AnyMessage
from mpaxos.core.types import Ballot, Mark
from mpaxos.errors import VersionMismatch, WireError
from mpaxos.machine.codec import key_codec
from mpaxos.net import codec
from tests.fuzz import targets
from tests.fuzz.seeds import seeds

ALL = {**targets.TARGETS, "batch": targets.batch}

_few = settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def mutated(inputs: list[bytes]) -> st.SearchStrategy[bytes]:
    """Seeds with a few bytes changed, cut, put in or doubled."""
    step = st.tuples(
        st.sampled_from(["set", "cut", "put", "twice"]),
        st.integers(0, 1 << 16),
        st.binary(min_size=1, max_size=9),
    )

    def change(data: bytes, steps: list[tuple[str, int, bytes]]) -> bytes:
        for how, where, what in steps:
            at = where % (len(data) + 1)
            if how == "set":
                data = data[:at] + what + data[at + len(what) :]
            elif how == "cut":
                data = data[:at] + data[at + len(what) :]
            elif how == "put":
                data = data[:at] + what + data[at:]
            else:
                data = data[:at] + data[at // 2 :]
        return data

    return st.builds(change, st.sampled_from(inputs), st.lists(step, max_size=4))


@pytest.mark.parametrize("name", sorted(ALL))
def test_bytes_parse_or_a_typed_error(name: str) -> None:
    target = ALL[name]
    inputs = seeds()[name]

    @_few
    @given(mutated(inputs) | st.binary(max_size=200))
    def run(data: bytes) -> None:
        target(data)

    run()


@pytest.mark.parametrize("name", sorted(ALL))
def test_seeds_reach_behind_the_first_check(name: str) -> None:
    """Seeds of which none is accepted would test the first line of a parser only."""
    accepted = [ALL[name](data) for data in seeds()[name]]
    assert any(accepted), "no seed is accepted"


# ------------------------------------------------------------------ there and back

_numbers = st.integers(-(1 << 63), (1 << 63) - 1)
_ballots = st.builds(Ballot, st.integers(0, (1 << 62) - 1), st.integers(0, 6))
_marks = st.builds(Mark, st.integers(0, 1 << 48), st.integers(0, (1 << 64) - 1))


@st.composite
def _anything(draw: st.DrawFn) -> AnyMessage:
    kind = draw(st.sampled_from(AnyMessage.__args__))
    made: dict[str, Any] = {}
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "ballot": _ballots,
        "promised": _ballots,
        "ballots": st.lists(_ballots, max_size=3),
        "accepted": st.lists(st.tuples(_numbers, _ballots), max_size=3),
        "slots": st.lists(_numbers, max_size=5),
        "granted": st.booleans(),
        "again": st.booleans(),
        "final": st.booleans(),
        "data": st.binary(max_size=20),
        "reason": st.text(max_size=20),
        "leads": st.booleans(),
        "lives": st.lists(_numbers, max_size=3),
        "agreed": _marks,
        "mark": _marks,
        "values": st.just([]),
    }
    for name in kind.__struct_fields__:
        made[name] = draw(strategies.get(name, _numbers))
    message: AnyMessage = kind(**made)
    return message


@_few
@given(_anything())
def test_every_message_survives_the_wire(message: AnyMessage) -> None:
    control, values = codec.encode(message)
    needed = len(getattr(message, "accepted", [])) or len(getattr(message, "ballots", []))
    try:
        again = codec.decode(control, values)
    except WireError:
        # Accept, Forward and whatever names slots need values, which were left out here.
        assert needed or type(message).__name__ in ("Accept", "Forward")
        return
    assert again == message


@_few
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=100)), max_size=5), st.data())
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    reader = wire.FrameReader()
    found: list[tuple[int, bytes]] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == frames


@_few
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), min_size=1), st.data())
def test_a_flipped_bit_in_a_stream_is_noticed(
    frames: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(wire.frame(kind, payload) for kind, payload in frames))
    bit = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[bit // 8] ^= 1 << bit % 8
    try:
        found = list(wire.FrameReader().feed(bytes(stream)))
    except (WireError, VersionMismatch):
        return
    # A length that grew: the reader waits for more, which never comes.
    assert found == frames[: len(found)]
    assert len(found) < len(frames)


_KEYS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (bytes, st.binary()),
    (int, _numbers),
    (bool, st.booleans()),
    (tuple[str, int], st.tuples(st.text(), _numbers)),
    (tuple[bytes, bytes], st.tuples(st.binary(), st.binary())),
    (tuple[str, tuple[bool, str]], st.tuples(st.text(), st.tuples(st.booleans(), st.text()))),
]


@pytest.mark.parametrize(("hint", "keys"), _KEYS, ids=[str(hint) for hint, _ in _KEYS])
def test_keys_keep_their_order_and_come_back(hint: Any, keys: st.SearchStrategy[Any]) -> None:
    chosen = key_codec(hint)

    @_few
    @given(keys, keys)
    def run(a: Any, b: Any) -> None:
        encoded = chosen.encode(a), chosen.encode(b)
        assert chosen.decode(encoded[0]) == a
        # Python orders texts by code points, as UTF-8 does by bytes.
        assert (encoded[0] < encoded[1]) == (a < b)

    run()
