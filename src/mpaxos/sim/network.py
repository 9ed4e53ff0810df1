"""The simulated network: loses, doubles, delays, reorders, cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaxos.core.messages import Envelope
from mpaxos.core.output import PeerDown, PeerUp, Received
from mpaxos.core.sessions import Entry
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

    def send(self, sender: ReplicaId, envelope: Envelope) -> None:
        world = self._world
        if (sender, envelope.to) in self.cuts or world.rng.random() < self.loss:
            return
        copies = 2 if world.rng.random() < self.duplication else 1
        for _ in range(copies):
            world.after(self._delay(), self._arrive, sender, envelope)

    def request(self, client: Client, target: ReplicaId, entry: Entry) -> None:
        if self._world.rng.random() >= self.loss:
            self._world.after(self._delay(), self._asked, client, target, entry)

    def reply(self, sender: ReplicaId, client: Client, reply: tuple[int, int, int, bytes]) -> None:
        if self._world.rng.random() >= self.loss:
            self._world.after(self._delay(), client.receive, reply)

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

    def _delay(self) -> int:
        return 20_000 + self._world.rng.randrange(self.longest_delay)

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
