"""Births: a replica that comes back with other data is refused by those who have met it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpaxos import _native
from mpaxos.core.output import Output, PeerUp
from mpaxos.errors import StorageForgotten
from mpaxos.net.adapter import NativePlane
from mpaxos.storage.files import Identity
from mpaxos.storage.lives import Lives, LivesFile
from tests.unit.plane_world import PEER_HELLO, Wire, World, peer_hello

NOBODY = ("127.0.0.1", 1)
UP, MET, ESTRANGED = _native.EVENT_PEER_UP, _native.EVENT_MET, _native.EVENT_ESTRANGED


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def told(world: World, replica: int = 0) -> list[tuple[Any, ...]]:
    """What a plane said of who came, without texts."""
    return [event[:4] for event in world.events[replica] if event[0] in (UP, MET, ESTRANGED)]


def caller(world: World, born: tuple[int, int], known: tuple[int, int] = (0, 0)) -> Wire:
    wire = world.wire(world.planes[0].ports()[0])
    wire.send(peer_hello(1, 0, born=born, known=known))
    return wire


def known_of(wire: Wire) -> tuple[int, ...]:
    """Life and birth of who answers, and those of us that it remembers."""
    kind, payload = wire.frame()
    assert kind == PEER_HELLO
    found: tuple[int, ...] = struct.unpack_from("<4Q", payload, 32)
    return found


def open_zero(world: World, met: dict[int, tuple[int, int]] | None = None) -> None:
    world.open(0, peers={1: NOBODY}).introduce(1, 500, met or {})


def test_who_is_new_is_met_before_it_is_heard(world: World) -> None:
    open_zero(world)
    wire = caller(world, (1, 77))
    assert known_of(wire) == (1, 500, 0, 0)
    world.wait(lambda: told(world) == [(MET, 1, 1, 77), (UP, 1)], "both, in this order")
    # Again: no news, and it is told with what it was met.
    assert known_of(caller(world, (1, 77))) == (1, 500, 1, 77)
    world.wait(lambda: told(world)[2:] == [(UP, 1)], "it again")


def test_without_a_birth_nothing_is_compared(world: World) -> None:
    open_zero(world)
    caller(world, (1, 0))
    world.wait(lambda: told(world) == [(UP, 1)], "it")


@pytest.mark.parametrize("born", [(1, 78), (1, 0), (2, 78)], ids=["anew", "without", "same life"])
def test_other_data_without_a_later_life_is_refused(world: World, born: tuple[int, int]) -> None:
    open_zero(world, {1: (2, 77)})
    wire = caller(world, born)
    assert known_of(wire) == (1, 500, 2, 77)
    wire.end()
    assert told(world) == []
    assert ["comes with other data" in text for text in world.notices()] == [True]
    assert world.counter("closed_mismatch") == 1
    # The one that was met still may come, in any life.
    caller(world, (3, 77))
    world.wait(lambda: told(world) == [(UP, 1)], "the one that was met")


def test_who_was_replaced_is_met_anew_and_the_old_one_refused(world: World) -> None:
    open_zero(world, {1: (1, 77)})
    caller(world, (9, 78))
    world.wait(lambda: told(world) == [(MET, 1, 9, 78), (UP, 1)], "the new one")
    caller(world, (1, 77)).end()
    assert len(told(world)) == 2
    assert "is the old one" in world.notices()[-1]


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ((1, 499), r"had other data\. What is here was made by `mpaxos init` after"),
        ((2, 499), "must not run any more"),
    ],
    ids=["anew", "replaced"],
)
def test_who_is_known_with_other_data_stops(
    world: World, known: tuple[int, int], text: str
) -> None:
    open_zero(world)
    plane = NativePlane(world.planes[0])
    wire = caller(world, (1, 77), known)
    with pytest.raises(StorageForgotten, match=text):
        for _ in range(50):  # 5 seconds
            plane.poll(Output())
    # And nothing that this peer said has been taken in.
    wire.frame()
    wire.end()


def test_a_replica_that_was_replaced_goes_on_although_its_former_data_are_remembered(
    world: World,
) -> None:
    world.open(0, peers={1: NOBODY}).introduce(5, 501, {})
    caller(world, (1, 77), (1, 500))
    world.wait(lambda: told(world) == [(MET, 1, 1, 77), (UP, 1)], "the peer")


def test_what_was_met_is_durable_before_the_protocol_hears_of_it(
    world: World, tmp_path: Path
) -> None:
    identity = Identity(b"c" * 16, 0)
    file = LivesFile.create(tmp_path, identity, Lives())
    open_zero(world)
    plane = NativePlane(world.planes[0], file.meet)
    caller(world, (3, 77))
    events: list[Any] = []
    while not events:
        events = plane.poll(Output()).events
        assert (LivesFile.open(tmp_path, identity).lives.met != {}) == bool(events)
    assert events == [PeerUp(1)]
    found = LivesFile.open(tmp_path, identity).lives
    assert found.met == {1: (3, 77)}
    assert found.birth == file.lives.birth != 0


def test_each_directory_has_a_birth_of_its_own(tmp_path: Path) -> None:
    identity = Identity(b"c" * 16, 0)
    births = {LivesFile.create(tmp_path, identity, Lives()).lives.birth for _ in range(20)}
    assert len(births) == 20 and 0 not in births


def test_a_file_from_before_births_has_none(tmp_path: Path) -> None:
    identity = Identity(b"c" * 16, 0)
    file = LivesFile.create(tmp_path, identity, Lives())
    file.lives.birth = 0
    file.save()
    opened = LivesFile.open(tmp_path, identity)
    opened.begin("pmem")
    assert LivesFile.open(tmp_path, identity).lives.birth == 0
