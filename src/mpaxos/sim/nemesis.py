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
            self.swizzle,
            self.lag,
            self.lag,
            self.heal,
            self.heal,
            self.freeze,
            self.weather,
            self.resign,
            self.slow_storage,
            self.full_storage,
        ]
        plan = world.plan
        if plan.durability not in ("pmem", "disk") and not plan.reckless:
            self._faults.remove(self.crash_all)  # more than the setting bears
        self._faults += [self.rot] * plan.rot + [self.replace] * (2 * plan.replaces)
        if plan.forgets:
            self._faults += [self.crash_after_vote] * 2 + [self.stand] + [self.ambush] * 4

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
        self._world.after(rng.randrange(5, self._world.plan.pace) * MILLISECOND, self.strike)

    def stop(self) -> None:
        """Heal everything: from here on the cluster has to come back by itself."""
        self.active = False
        network = self._world.network
        network.mend()
        network.loss = network.duplication = 0.0
        network.longest_delay = MILLISECOND
        for node in self._world.nodes:
            node.frozen_until = 0
            node.store.crash_after = None
            node.store.full = False
            node.store.delay = 0
            if node.alive:
                node.plane.crash_on_send = node.plane.crash_after_vote = False
                node.machine.crash_in = None
                self._world.wake(node)
            else:
                self._world.restart(node)

    # -- faults ---------------------------------------------------------------------------

    def crash(self) -> None:
        if (node := self._victim()) is not None and node.may_crash():
            self._world.crash(node, "killed")

    def crash_in_write(self) -> None:
        if (node := self._victim()) is not None:
            node.store.crash_after = self._world.rng.randrange(6)

    def crash_before_sending(self) -> None:
        if (node := self._victim()) is not None:
            node.plane.crash_on_send = True

    def crash_after_vote(self) -> None:
        """The next one whose vote is on its way forgets it, or would if it could."""
        if (node := self._victim()) is not None:
            node.plane.crash_after_vote = True

    def stand(self) -> None:
        """A replica seeks votes whatever it hears."""
        if (node := self._victim()) is not None:
            node.stand()

    def ambush(self) -> None:
        """A candidate reaches one voter, which dies of its vote; what a promise is worth shows when
        the candidate meets the others again."""
        world, rng = self._world, self._world.rng
        living = [n for n in world.nodes if n.alive and not n.replica.is_leader]
        if len(living) < 2:
            return
        candidate, voter = rng.sample(living, 2)
        self.heal()
        self._cut_off(candidate.id)
        world.network.cuts -= {(candidate.id, voter.id), (voter.id, candidate.id)}
        candidate.stand()
        voter.plane.crash_after_vote = True
        if rng.random() < 0.7:
            world.after(rng.randrange(2, 6) * MILLISECOND, self._cut_off, candidate.id)
        world.after(rng.randrange(20, 600) * MILLISECOND, self._let_in, candidate.id)

    def crash_in_apply(self) -> None:
        if (node := self._victim()) is not None:
            node.machine.crash_in = self._world.rng.choice(["begun", "applied"])

    def crash_all(self) -> None:
        for node in self._world.nodes:
            if node.alive:
                self._world.crash(node, "all killed")

    def replace(self) -> None:
        """A replica loses all it had, and an empty one takes its place; a majority is spared."""
        world = self._world
        node = world.rng.choice(world.nodes)
        if not node.lost and world.may_forget(node):
            if node.alive:
                world.crash(node, "replaced by an empty one")
            node.replace()

    def partition(self) -> None:
        rng, n = self._world.rng, self._world.plan.replicas
        network = self._world.network
        network.mend()
        cuts = network.cuts
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
        # Often only the others notice, and elect, while a leader inside believes to lead still.
        noticed = rng.random() < 0.5
        for a in inside:
            for b in replicas[size:]:
                cuts.add((a, b))
                if kind != "one way":
                    cuts.add((b, a))
                if noticed:
                    network.break_connection(b, a)

    def lag(self) -> None:
        """Messages of one replica, or to one, come late, so that others overtake them."""
        rng, n = self._world.rng, self._world.plan.replicas
        victim = self._victim()
        if victim is None:
            return
        extra = rng.choice([2, 10, 100]) * MILLISECOND
        lags = self._world.network.lags
        for other in range(n):
            if other != victim.id and rng.random() < 0.6:
                pair = (victim.id, other) if rng.random() < 0.5 else (other, victim.id)
                lags[pair] = extra

    def swizzle(self) -> None:
        """Cut off some replicas one after another, let them back in another order."""
        world, rng = self._world, self._world.rng
        self.heal()
        victims = rng.sample(range(world.plan.replicas), rng.randrange(1, world.plan.replicas + 1))
        for victim in victims:
            world.after(rng.randrange(100) * MILLISECOND, self._cut_off, victim)
            world.after(rng.randrange(100, 300) * MILLISECOND, self._let_in, victim)

    def _cut_off(self, victim: int) -> None:
        if self.active:
            others = [n for n in range(self._world.plan.replicas) if n != victim]
            self._world.network.cuts.update((victim, n) for n in others)
            self._world.network.cuts.update((n, victim) for n in others)

    def _let_in(self, victim: int) -> None:
        cuts = self._world.network.cuts
        cuts.difference_update([pair for pair in cuts if victim in pair])

    def heal(self) -> None:
        self._world.network.mend()

    def freeze(self) -> None:
        if (node := self._victim()) is not None:
            world = self._world
            node.frozen_until = world.now + world.rng.randrange(10, 1500) * MILLISECOND

    def weather(self) -> None:
        rng, network = self._world.rng, self._world.network
        network.loss = rng.choice([0.0, 0.0, 0.3 * rng.random()])
        network.duplication = rng.choice([0.0, 0.3 * rng.random()])
        network.longest_delay = rng.choice([1, 1, 10, 100]) * MILLISECOND

    def resign(self) -> None:
        if (node := self._victim()) is not None:
            node.resign()

    def slow_storage(self) -> None:
        if (node := self._victim()) is not None:
            rng = self._world.rng
            node.store.delay = rng.randrange(1, 50) * MILLISECOND
            self._world.after(rng.randrange(50, 500) * MILLISECOND, self._storage_recovers, node)

    def full_storage(self) -> None:
        if (node := self._victim()) is not None:
            node.store.full = True
            self._world.after(
                self._world.rng.randrange(20, 300) * MILLISECOND, self._storage_recovers, node
            )

    def _storage_recovers(self, node: Node) -> None:
        node.store.delay = 0
        node.store.full = False

    def rot(self) -> None:
        """Flip a bit in what a replica has stored; a majority is spared."""
        world = self._world
        damaged = [node for node in world.nodes if node.store.damaged]
        node = world.rng.choice(world.nodes)
        if node in damaged or len(damaged) < (world.plan.replicas - 1) // 2:
            world.trace(f"node {node.id}: {node.store.flip_bit(world.rng)} flipped")

    def _victim(self) -> Node | None:
        rng = self._world.rng
        living = [node for node in self._world.nodes if node.alive]
        leaders = [node for node in living if node.replica.is_leader]
        if leaders and rng.random() < 0.4:
            return rng.choice(leaders)
        return rng.choice(living) if living else None
