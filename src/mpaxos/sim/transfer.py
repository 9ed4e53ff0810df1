"""State transfer in the simulated world: images of the machine in memory, chunk by chunk.

What is durable of an installation lives in `Install`, beside the node's store, and survives
crashes. Chunks are made late, sometimes wrong; replicas die in the middle of the switch.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from mpaxos.core.invariant import invariant
from mpaxos.core.output import Event, Output
from mpaxos.core.settings import MILLISECOND
from mpaxos.core.transfer import carried_over
from mpaxos.core.transfer_io import (
    ChunkMade,
    CloseImage,
    DropInstall,
    ImageFailed,
    InstallChunk,
    Installed,
    InstallFailed,
    InstallFound,
    MakeChunk,
    Switch,
)
from mpaxos.core.types import Instant, Slot
from mpaxos.machine.memory import MemoryEngine
from mpaxos.sim.store import Crash, SimStore
from mpaxos.sim.values import SimReplies

if TYPE_CHECKING:
    from mpaxos.sim.node import Node
    from mpaxos.sim.world import World

CHUNK = 400
"""Bytes: small, so that even a small state has many."""


class Refused(Exception):
    """A chunk that does not fit."""


class Image(msgspec.Struct):
    """One being made: the state as it was when it was begun."""

    number: int
    slot: Slot
    data: bytes
    made: int = 0


class Install(msgspec.Struct):
    """One being installed; durable."""

    image: int
    parts: list[bytes]
    slot: Slot | None = None
    """Complete: the slot it is of."""

    def add(self, image: int, number: int, data: bytes, final: bool) -> None:
        """Take the next chunk; the final one completes it. Raises Refused."""
        self.check_image(image)
        if number != len(self.parts):
            raise Refused(f"chunk {number} came where {len(self.parts)} is expected")
        self.parts.append(data)
        if final:
            self.slot = self.verified()

    def check_image(self, image: int) -> None:
        """Chunks of two images do not mix."""
        if image != self.image:
            raise Refused("a chunk of another image")

    def verified(self) -> Slot:
        """Compare what came with what the source summed up; the slot it is of."""
        data = b"".join(self.parts)
        if zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            raise Refused("it is not the state that the source had")
        return self.engine().mark[0]

    def engine(self, **limits: int) -> MemoryEngine:
        """The state, as an engine."""
        return MemoryEngine.load(b"".join(self.parts)[4:], SimReplies, **limits)


class SimTransfers:
    """mpaxos.runtime.loop.Background for one life of a node."""

    def __init__(self, world: World, node: Node) -> None:
        self._now: Instant = 0
        self.switch: Switch | None = None
        self.images_made = 0
        self._world = world
        self._node = node
        # Of its own, so that runs without a transfer are what they were without this module.
        self._rng = random.Random(world.seed * 64 + node.id * 8 + node.life)
        self._events: deque[Event] = deque()
        self._images: dict[int, Image] = {}
        self._wanted: deque[int] = deque()
        self._installs: deque[InstallChunk | DropInstall] = deque()
        if node.install is not None and node.install.parts:
            self._events.append(InstallFound(node.install.image, len(node.install.parts)))

    @property
    def busy(self) -> bool:
        """Something is left to be done."""
        return bool(self._wanted or self._installs or self._events)

    def collect(self, now: Instant, /) -> list[Event]:
        """Some of what is done: it may come late."""
        self._now = now
        self._work()
        events = list(self._events)
        self._events.clear()
        return events

    def carry_out(self, output: Output, /) -> None:
        """Note what a step asked for; it is done in later turns."""
        for step in output.transfer:
            match step:
                case MakeChunk(job=job):
                    self._wanted.append(job)
                case CloseImage(job=job):
                    self._images.pop(job, None)
                case InstallChunk() | DropInstall():
                    self._installs.append(step)
                case Switch():
                    self.switch = step
        if self.busy:
            output.wake_at = min(output.wake_at, self._now + MILLISECOND)

    def _work(self) -> None:
        if self._wanted and self._rng.random() < 0.8:
            self._events.append(self._make(self._wanted.popleft()))
        if self._installs and self._rng.random() < 0.8:
            self._install(self._installs.popleft())

    def _make(self, job: int) -> Event:
        rng = self._rng
        image = self._images.get(job)
        if self._world.nemesis.active and rng.random() < 0.02:
            self._images.pop(job, None)
            return ImageFailed(job, "given up")
        if image is None:
            engine = self._node.engine
            data = engine.dump()
            sealed = zlib.crc32(data).to_bytes(4, "little") + data
            image = self._images[job] = Image(rng.getrandbits(62) + 1, engine.mark[0], sealed)
            self.images_made += 1
        number, image.made = image.made, image.made + 1
        part = image.data[number * CHUNK : (number + 1) * CHUNK]
        final = (number + 1) * CHUNK >= len(image.data)
        if self._world.nemesis.active and rng.random() < 0.02:
            part = part[:-1] + bytes([part[-1] ^ 1])
        made = min(len(image.data), image.made * CHUNK)
        # The last byte of the opaque data says whether it is the last chunk.
        data = part + bytes([final])
        slot = image.slot
        return ChunkMade(job, image.number, number, slot, final, made, len(image.data), data)

    def _install(self, step: InstallChunk | DropInstall) -> None:
        node = self._node
        if isinstance(step, DropInstall):
            node.install = None
            return
        if step.number == 0:
            node.install = Install(step.image, [])
        install = node.install
        try:
            if install is None or install.slot is not None:
                raise Refused("a chunk for nothing")
            install.add(step.image, step.number, step.data[:-1], step.data[-1] == 1)
        except (Refused, msgspec.MsgspecError) as error:
            self._events.append(InstallFailed(step.job, str(error)))
            return
        self._events.append(Installed(step.job, step.number + 1, install.slot))


def switch_store(world: World, node: Node, rng: random.Random | None = None) -> None:
    """Put the state that `node` has received in the place of its store, as the runtime does; it may
    die before or after the rename."""
    install = node.install
    invariant(install is not None and install.slot is not None, "a switch to nothing")
    if install is None or install.slot is None:
        return
    may_die = rng is not None and world.nemesis.active and node.may_crash()
    if rng is not None and may_die and rng.random() < 0.2:
        raise Crash("before a switch")
    old, slot = node.store, install.slot
    recovered = old.recovered()
    invariant(slot >= recovered.applied.slot, f"a switch back to slot {slot}")
    writes = carried_over(recovered, old, slot)
    plan = world.plan
    limits = {"max_sessions": plan.max_sessions, "max_reply_slots": 8 * plan.max_sessions}
    node.engine = install.engine(**limits)
    new = SimStore(plan.log_size, old.applied, old.durability)
    new.truncated_upto = slot
    new.write(writes)
    _forgets_nothing(node, old, new, slot)
    new.on_record = partial(world.checker.recorded, node.id, new)
    new.become(old)
    node.store, node.install = new, None
    world.nemesis.strikes["switch"] = world.nemesis.strikes.get("switch", 0) + 1
    if rng is not None and may_die and rng.random() < 0.2:
        raise Crash("after a switch")


def finish_switch(world: World, node: Node) -> None:
    """At a start: switch to what was received completely, as the runtime does."""
    install = node.install
    if install is None or install.slot is None:
        return
    if install.slot > node.engine.mark[0]:
        switch_store(world, node)
    node.install = None


def _forgets_nothing(node: Node, old: SimStore, new: SimStore, slot: Slot) -> None:
    """Every vote that may have been told is known after the switch."""
    invariant(
        new.promised >= old.promised,
        f"node {node.id} promised {old.promised} and knows of {new.promised} after a switch",
    )
    for number, record in old.records.items():
        held = new.records.get(number)
        kept = number <= slot or (held is not None and held.ballot >= record.ballot)
        invariant(kept, f"node {node.id} forgot its vote for slot {number} in a switch")
