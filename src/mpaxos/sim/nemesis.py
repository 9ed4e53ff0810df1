"""The faults of one run, drawn from its seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaxos.core.settings import MILLISECOND

if TYPE_CHECKING:
    from mpaxos.sim.node import Node
    from mpaxos.sim.world import World


class Nemesis:
    """Strikes at random intervals until it is told to stop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.active = True
        self.strikes: dict[str, int] = {}
        self._faults = [
            self.crash,
            self.crash,
            self.crash_in_write,
            self.crash_before_sending,
            self.crash_in_apply,
            self.crash_all,
            self.partition,
            self.partition,
            self.heal,
            self.heal,
            self.freeze,
            self.weather,
            self.resign,
        ]

    def strike(self) -> None:
        """One fault now, the next one later."""
        if not self.active:
            return
        rng = self._world.rng
        fault = rng.choice(self._faults)
        name = fault.__name__
        self.strikes[name] = self.strikes.get(name, 0) + 1
        self._world.trace(f"fault {name}")
        fault()
        self._world.after(rng.randrange(5, 250) * MILLISECOND, self.strike)

    def stop(self) -> None:
        """Heal everything: from here on the cluster has to come back by itself."""
        self.active = False
        self.heal()
        network = self._world.network
        network.loss = network.duplication = 0.0
        network.longest_delay = MILLISECOND
        for node in self._world.nodes:
            node.frozen_until = 0
            node.store.crash_after = None
            if node.alive:
                node.plane.crash_on_send = False
                node.machine.crash_in = None
                self._world.wake(node)
            else:
                self._world.restart(node)

    # -- faults ---------------------------------------------------------------------------

    def crash(self) -> None:
        if (node := self._victim()) is not None:
            self._world.crash(node, "killed")

    def crash_in_write(self) -> None:
        if (node := self._victim()) is not None:
            node.store.crash_after = self._world.rng.randrange(6)

    def crash_before_sending(self) -> None:
        if (node := self._victim()) is not None:
            node.plane.crash_on_send = True

    def crash_in_apply(self) -> None:
        if (node := self._victim()) is not None:
            node.machine.crash_in = self._world.rng.choice(["begun", "applied"])

    def crash_all(self) -> None:
        for node in self._world.nodes:
            if node.alive:
                self._world.crash(node, "all killed")

    def partition(self) -> None:
        rng, n = self._world.rng, self._world.plan.replicas
        cuts = self._world.network.cuts
        cuts.clear()
        kind = rng.choice(["isolate", "split", "one way", "chain"])
        replicas = list(range(n))
        rng.shuffle(replicas)
        if kind == "chain":
            # Each hears its neighbours only.
            cuts.update((a, b) for a in range(n) for b in range(n) if abs(a - b) > 1)
            return
        victim = self._victim()
        if victim is not None:
            # Cut off first of all: often the leader, with a few that still hear it.
            replicas.remove(victim.id)
            replicas.insert(0, victim.id)
        size = 1 if kind != "split" else rng.randrange(1, n)
        inside = replicas[:size]
        for a in inside:
            for b in replicas[size:]:
                cuts.add((a, b))
                if kind != "one way":
                    cuts.add((b, a))

    def heal(self) -> None:
        self._world.network.cuts.clear()

    def freeze(self) -> None:
        if (node := self._victim()) is not None:
            world = self._world
            node.frozen_until = world.now + world.rng.randrange(10, 1500) * MILLISECOND

    def weather(self) -> None:
        rng, network = self._world.rng, self._world.network
        network.loss = rng.choice([0.0, 0.0, 0.02, 0.1, 0.3])
        network.duplication = rng.choice([0.0, 0.05, 0.3])
        network.longest_delay = rng.choice([1, 1, 10, 100]) * MILLISECOND

    def resign(self) -> None:
        if (node := self._victim()) is not None:
            node.resign()

    def _victim(self) -> Node | None:
        rng = self._world.rng
        living = [node for node in self._world.nodes if node.alive]
        leaders = [node for node in living if node.replica.is_leader]
        if leaders and rng.random() < 0.4:
            return rng.choice(leaders)
        return rng.choice(living) if living else None
