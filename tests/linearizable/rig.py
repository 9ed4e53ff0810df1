"""A cluster of real processes behind a proxy, clients that record what they see, and faults."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from mpaxos.client.options import Options
from mpaxos.compiled import PURE
from mpaxos.errors import ClientError, OutcomeUnknown
from mpaxos.local import KV, LocalCluster
from mpaxos.proxy import Link, Proxy
from mpaxos.services.kv import AsyncKeyValueClient
from mpaxos.sim.linearizability import KeyValueModel, Operation, Verdict, check

SMALL = {"pool.size": "64 MiB", "pool.log_size": "16 MiB", "limits.max_reply_slots": "32768"}
DEADLINES = (0.25, 4.0, 4.0)
"""Seconds a client waits before it counts an operation as pending for ever."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    seed: int
    operations: int = 10_000
    replicas: int = 3
    clients: int = 10
    keys: int = 12
    service: str = KV


class Result(msgspec.Struct):
    """How a run went."""

    plan: Plan
    history: list[Operation]
    faults: dict[str, int]
    seconds: float
    verdict: Verdict

    @property
    def answered(self) -> float:
        """Share of the operations that were answered."""
        return sum(o.returned is not None for o in self.history) / max(1, len(self.history))


class ProxiedCluster(LocalCluster):
    """Every connection between two replicas, and from clients to a replica, is a link."""

    def __init__(self, directory: Path, proxy: Proxy, plan: Plan) -> None:
        super().__init__(
            directory, replicas=plan.replicas, service=plan.service, settings=dict(SMALL)
        )
        self.peers: dict[tuple[int, int], Link] = {}
        """By (dialling, accepting) replica: the one with the higher id dials."""
        for dialling in self.numbers:
            for accepting in range(dialling):
                target = self.config.replica(accepting).peer
                self.peers[dialling, accepting] = proxy.link(target)
        self.clients = {n: proxy.link(self.config.replica(n).client) for n in self.numbers}

    def command(self, number: int) -> list[str]:
        words = super().command(number)
        for (dialling, accepting), link in self.peers.items():
            if dialling == number:
                words += ["--set", f"replicas.{accepting}.peer={link.address}"]
        return words

    def environment(self) -> dict[str, str]:
        # A service that breaks the protocol can only do so to its source.
        broken = {} if self.config.service == KV else {PURE: "1"}
        return super().environment() | broken

    def way(self, sender: int, receiver: int) -> Any:
        """The direction that carries messages of `sender` to `receiver`."""
        if sender > receiver:
            return self.peers[sender, receiver].there
        return self.peers[receiver, sender].back

    def heal(self) -> None:
        for link in (*self.peers.values(), *self.clients.values()):
            link.heal()


class Recorder:
    """Clients in a thread of their own, and the history of what they did."""

    def __init__(self, plan: Plan, cluster: ProxiedCluster) -> None:
        self.history: list[Operation] = []
        self.begun = 0
        self.allowed = 0
        """Operations that may begin so far: each fault gets its share of them."""
        self._plan = plan
        self._addresses = [link.address for link in cluster.clients.values()]
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def running(self) -> bool:
        """True until the last client is done. Raises what a client raised."""
        if self._failure is not None:
            raise self._failure
        return self._thread.is_alive()

    def _main(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            self._failure = error

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._plan.clients):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        rng = random.Random(self._plan.seed * 1000 + number)
        while self.begun < self._plan.operations:
            addresses = rng.sample(self._addresses, len(self._addresses))
            options = Options(deadline=rng.choice(DEADLINES))
            try:
                async with AsyncKeyValueClient(",".join(addresses), options) as kv:
                    for _ in range(200):
                        while self.begun >= self.allowed:
                            if self.begun >= self._plan.operations:
                                return
                            await asyncio.sleep(0.002)
                        self.begun += 1
                        await self._one(kv, rng, f"{number}", self.begun)
            except ClientError:
                await asyncio.sleep(0.02)  # nobody answers at all: connect anew

    async def _one(
        self, kv: AsyncKeyValueClient, rng: random.Random, who: str, number: int
    ) -> None:
        key = f"k{rng.randrange(self._plan.keys)}"
        value = f"{who}-{number}".encode()
        seen = [o.action[2] for o in self.history[-40:] if o.action[:2] == ("put", key)]
        expected = rng.choice([*seen, None]) if rng.random() < 0.9 else b"never"
        kinds: list[tuple[Any, Callable[[], Awaitable[Any]]]] = [
            (("get", key), lambda: kv.get(key)),
            (("put", key, value), lambda: kv.put(key, value)),
            (("cas", key, expected, value), lambda: kv.compare_and_set(key, expected, value)),
            (("delete", key), lambda: kv.delete(key)),
        ]
        action, call = rng.choices(kinds, [50, 25, 20, 5])[0]
        invoked = time.monotonic_ns()
        result, returned = None, None
        try:
            result = await call()
            returned = time.monotonic_ns()
        except OutcomeUnknown:
            pass
        except ClientError:
            if action[0] == "get":
                return  # has no effect, and told nothing
        self.history.append(Operation(who, action, result, invoked, returned))


class Nemesis:
    """Faults, one after the other, until the clients are done."""

    def __init__(self, plan: Plan, cluster: ProxiedCluster) -> None:
        self.struck: dict[str, int] = {}
        self._cluster = cluster
        self._rng = random.Random(plan.seed)
        self.faults = [
            *(self.kill, self.kill_leader, self.kill_all, self.pause, self.pause_leader),
            *(self.isolate_leader, self.one_way, self.split, self.delay, self.throttle),
            self.cut_clients,
        ]
        self._rng.shuffle(self.faults)

    def strike(self) -> None:
        """The next fault, and its end."""
        fault = self.faults[sum(self.struck.values()) % len(self.faults)]
        self.struck[fault.__name__] = self.struck.get(fault.__name__, 0) + 1
        try:
            fault()
        finally:
            self._cluster.heal()
            self._cluster.start()

    def _wait(self, least: float = 0.1, most: float = 0.8) -> None:
        time.sleep(self._rng.uniform(least, most))  # a fault lasts for a time, and for no event

    def _victim(self) -> int:
        return self._rng.choice(self._cluster.numbers)

    def _leader(self) -> int:
        for number in self._cluster.numbers:
            status = self._cluster.status(number, timeout=0.5)
            if status is not None and status["role"] == "leader":
                return number
        return self._victim()

    def kill(self) -> None:
        self._cluster.kill(self._victim())
        self._wait()

    def kill_leader(self) -> None:
        self._cluster.kill(self._leader())
        self._wait()

    def kill_all(self) -> None:
        self._cluster.kill(*self._cluster.numbers)

    def pause(self) -> None:
        self._pause(self._victim())

    def pause_leader(self) -> None:
        self._pause(self._leader())

    def _pause(self, number: int) -> None:
        self._cluster.kill(number, sign=signal.SIGSTOP)
        try:
            self._wait(0.1, self._rng.choice([0.3, 1.0, 3.0]))
        finally:
            self._cluster.kill(number, sign=signal.SIGCONT)

    def isolate_leader(self) -> None:
        leader = self._leader()
        for other in self._cluster.numbers:
            if other != leader:
                self._cluster.way(leader, other).stalled = True
                self._cluster.way(other, leader).stalled = True
        self._wait(0.5, 1.5)

    def one_way(self) -> None:
        victim = self._leader() if self._rng.random() < 0.5 else self._victim()
        inwards = self._rng.random() < 0.5
        for other in self._cluster.numbers:
            if other != victim:
                pair = (other, victim) if inwards else (victim, other)
                self._cluster.way(*pair).stalled = True
        self._wait(0.3, 1.2)

    def split(self) -> None:
        numbers = self._rng.sample(self._cluster.numbers, len(self._cluster.numbers))
        minority = numbers[: len(numbers) // 2]
        for (dialling, accepting), link in self._cluster.peers.items():
            if (dialling in minority) != (accepting in minority):
                link.cut()
        self._wait(0.3, 1.2)

    def delay(self) -> None:
        for link in self._cluster.peers.values():
            link.there.delay = self._rng.uniform(0, 0.02)
            link.back.delay = self._rng.uniform(0, 0.02)
        self._wait()

    def throttle(self) -> None:
        for link in self._cluster.peers.values():
            link.there.rate = link.back.rate = 200_000
        self._wait()

    def cut_clients(self) -> None:
        for link in self._cluster.clients.values():
            if self._rng.random() < 0.7:
                link.reset()
        self._wait(0.05, 0.2)


def run(plan: Plan, directory: Path, progress: Callable[[int], None] | None = None) -> Result:
    """One run in `directory`, judged. Raises AssertionError when the rig itself does not work."""
    began = time.monotonic()
    with Proxy() as proxy, ProxiedCluster(directory, proxy, plan) as cluster:
        cluster.initialise()
        cluster.start()
        cluster.wait_in_step()
        recorder, nemesis = Recorder(plan, cluster), Nemesis(plan, cluster)
        recorder.start()
        told = 0
        while recorder.running():
            recorder.allowed += -(-plan.operations // len(nemesis.faults))
            target = min(recorder.allowed, plan.operations) - plan.clients
            nemesis.strike()
            # Between two faults the cluster has to get on with its work.
            limit = time.monotonic() + 30
            while recorder.running() and recorder.begun < target:
                assert time.monotonic() < limit, f"stuck after {nemesis.struck}"
                time.sleep(0.01)
            if progress is not None:
                progress(len(recorder.history) - told)
                told = len(recorder.history)
    verdict = check(recorder.history, KeyValueModel(), key=lambda o: o.action[1])
    seconds = time.monotonic() - began
    return Result(plan, recorder.history, nemesis.struck, seconds, verdict)
