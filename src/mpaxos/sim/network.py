"""The simulated network: loses, doubles, delays, reorders, cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaxos.core.messages import Envelope
from mpaxos.core.output import PeerDown, PeerUp, Received
from mpaxos.core.sessions import Entry
from mpaxos.core.settings import MILLISECOND
from mpaxos.core.types import ReplicaId

if TYPE_CHECKING:
    from mpaxos.sim.clients import Client
    from mpaxos.sim.world import World


class Network:
    """Carries messages between replicas, and between clients and replicas."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.loss = 0.0
        self.duplication = 0.0
        self.longest_delay = 1_000_000
        self.cuts: set[tuple[ReplicaId, ReplicaId]] = set()
        """Pairs (from, to) that cannot talk."""
        self.lags: dict[tuple[ReplicaId, ReplicaId], int] = {}
        """Nanoseconds that messages of some pairs (from, to) take beside the usual delay."""
        self._broken: list[tuple[ReplicaId, ReplicaId]] = []

    def send(self, sender: ReplicaId, envelope: Envelope, late: int) -> None:
        """Carry a message of a replica that leaves it `late` nanoseconds from now."""
        world = self._world
        if (sender, envelope.to) in self.cuts or (self.loss and world.rng.random() < self.loss):
            return
        if self.lags:
            late += self.lags.get((sender, envelope.to), 0)
        if self.duplication and world.rng.random() < self.duplication:
            world.after(late + self._delay(), self._arrive, sender, envelope)
        world.after(late + self._delay(), self._arrive, sender, envelope)

    def request(self, client: Client, target: ReplicaId, entry: Entry) -> None:
        world = self._world
        if world.rng.random() >= self.loss:
            world.after(self._delay(), self._asked, client, target, entry)
        if self.duplication and world.rng.random() < self.duplication:
            # An old request turns up again when its client has long gone on.
            late = world.rng.randrange(500 * MILLISECOND)
            world.after(late, self._asked, client, target, entry)

    def reply(self, client: Client, reply: tuple[int, int, int, bytes], late: int) -> None:
        if self._world.rng.random() >= self.loss:
            self._world.after(late + self._delay(), client.receive, reply)

    def connect(self, node: ReplicaId) -> None:
        """A replica started: it and the living ones notice each other."""
        world = self._world
        for other in world.nodes:
            if other.id != node and other.alive:
                other.plane.arrive(PeerUp(node))
                world.nodes[node].plane.arrive(PeerUp(other.id))
                world.wake(other)

    def disconnect(self, node: ReplicaId) -> None:
        """A replica died: the others' connections to it break."""
        for other in self._world.nodes:
            if other.id != node and other.alive:
                other.plane.arrive(PeerDown(node))
                self._world.wake(other)

    def break_connection(self, observer: ReplicaId, peer: ReplicaId) -> None:
        """`observer` sees its connection to `peer` break; `peer` notices nothing."""
        if self._world.nodes[observer].alive:
            self._broken.append((observer, peer))
            self._world.nodes[observer].plane.arrive(PeerDown(peer))
            self._world.wake(self._world.nodes[observer])

    def mend(self) -> None:
        """Nothing is cut or slow any more, and what was broken connects again."""
        self.cuts.clear()
        self.lags.clear()
        broken, self._broken = self._broken, []
        for observer, peer in broken:
            node = self._world.nodes[observer]
            if node.alive and self._world.nodes[peer].alive:
                node.plane.arrive(PeerUp(peer))
                self._world.wake(node)

    def _delay(self) -> int:
        return 20_000 + int(self._world.rng.random() * self.longest_delay)

    def _arrive(self, sender: ReplicaId, envelope: Envelope) -> None:
        node = self._world.nodes[envelope.to]
        if node.alive:
            node.plane.arrive(Received(sender, envelope.message))
            self._world.wake(node)

    def _asked(self, client: Client, target: ReplicaId, entry: Entry) -> None:
        node = self._world.nodes[target]
        if node.alive:
            node.plane.request(client, entry)
            self._world.wake(node)
