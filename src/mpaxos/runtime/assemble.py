"""The parts of a replica, put together as its cluster file says."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec

from mpaxos import _native
from mpaxos._native import Engine
from mpaxos.config import ClusterConfig, agreement
from mpaxos.core.output import Decided, ReadReady
from mpaxos.core.replica import Replica
from mpaxos.core.types import Recovered
from mpaxos.machine.host import MachineHost
from mpaxos.net.adapter import NativePlane
from mpaxos.runtime.applier import Applier, InlineApplier, Machine, NativeMachine, ThreadedApplier
from mpaxos.runtime.snapshotter import Snapshotter
from mpaxos.runtime.steady import NativeSteady, native_steady
from mpaxos.storage.lives import Lives, LivesFile
from mpaxos.storage.memory import Memory
from mpaxos.storage.restore import replay
from mpaxos.storage.store import KeptLog

log = logging.getLogger("mpaxos")


def make_plane(
    config: ClusterConfig, number: int, incarnation: int, lives: LivesFile
) -> tuple[_native.Plane, NativePlane]:
    """Bind all ports; the sockets, and what the loop sees of them. Nobody is talked to before
    introduce()."""
    limits = config.limits
    plane = _native.Plane(
        replica=number,
        cluster=config.cluster_id,
        incarnation=incarnation,
        agreement=agreement(config),
        peers=config.peers_of(number),
        listen_peer=config.listen_peer(number),
        listen_client=config.listen_client(number),
        listen_jpaxos=config.listen_jpaxos(number),
        max_request=limits.max_request,
        max_batch=limits.max_batch,
        max_pending=limits.max_pending,
        max_connections=limits.max_connections,
    )
    plane.set_identity(config.name, config.service)
    return plane, NativePlane(plane, lives.meet)


def introduce(plane: _native.Plane, lives: Lives) -> None:
    """Let the sockets say which data this replica has, and compare others with those it met."""
    plane.introduce(lives.life, lives.birth, lives.met)


def make_machine(service: type, config: ClusterConfig, engine: Engine, time: int) -> Machine:
    """The state machine over its engine. `time`: the largest time stamp applied."""
    if is_native(service):
        return NativeMachine(engine)
    return MachineHost(engine, service, config.state_limit, time=time)


def make_applier(service: type, machine: Machine, plane: NativePlane) -> Applier:
    """Native machines are applied in the turn, those in Python on a thread of their own."""
    if is_native(service):
        return InlineApplier(machine)
    # The thread that runs user code gives way to the loop this often.
    sys.setswitchinterval(0.001)
    hand_over = _native.HandOver()
    plane.serve(hand_over)
    return ThreadedApplier(machine, plane.wake, hand_over)


def is_native(service: type) -> bool:
    """The machine is inside the extension."""
    return getattr(service, "native", None) == "kv"


def catch_up_locally(memory: Memory, machine: Machine) -> None:
    """Apply what the log knows to be decided beyond the snapshot that was restored. Raises
    StorageCorrupt."""
    kept = memory.kept
    if kept is None:
        return
    first = machine.mark[0]
    last, seconds = replay(kept, first, machine.apply)
    newest = memory.newest
    log.info(
        "state restored from %s; %d slots of the log applied again in %.2f s",
        f"the snapshot of slot {newest.mark.slot}" if newest.mark.slot else "the log alone",
        last - first,
        seconds,
    )


def recovered(memory: Memory) -> Recovered:
    """What the protocol begins with."""
    found = memory.store.recovered()
    if memory.snapshots is None:
        return found
    return msgspec.structs.replace(
        found, snapshot=memory.newest.mark.slot, log_survives=memory.kept is not None
    )


def remembering(applier: Applier, memory: Memory) -> Applier:
    """Beside a volatile machine, let the log remember what is decided."""
    kept = memory.kept
    return applier if kept is None else RememberingApplier(applier, kept)


class RememberingApplier:
    """Tells the log how far it is decided. What is handed to an applier is, and its records are
    durable."""

    def __init__(self, inner: Applier, kept: KeptLog) -> None:
        self._inner = inner
        self._kept = kept
        self.collect = inner.collect
        self.call = inner.call
        self.waits = inner.waits
        self.reached = inner.reached
        self.stop = inner.stop

    def submit(self, decided: list[Decided], reads: list[ReadReady]) -> None:
        if decided:
            self._kept.decided(decided[-1].slot)
        self._inner.submit(decided, reads)


def make_steady(
    replica: Replica,
    memory: Memory,
    engine: Engine,
    applier: Applier,
    plane: NativePlane,
    epoch: int,
    incarnation: int,
) -> NativeSteady | None:
    """What takes ordinary turns without Python. None where a turn is more than its records: where
    the log is on disk, or the state lives in snapshots."""
    if memory.later is not None or memory.snapshots is not None:
        return None
    steady = native_steady(
        replica.settings, log_size=memory.pool.log_size, epoch=epoch, incarnation=incarnation
    )
    inline = isinstance(applier, InlineApplier)
    plane.attach(steady, memory.pool, engine if inline else None)
    return NativeSteady(steady, applier)


def make_snapshotter(
    memory: Memory, engine: Engine, config: ClusterConfig, applier: Applier, plane: NativePlane
) -> Snapshotter | None:
    """None where none are taken."""
    if memory.snapshots is None:
        return None
    snapshotter = Snapshotter(
        memory,
        memory.snapshots,
        engine,
        config.snapshots,
        call=applier.call,
        wake=plane.wake,
    )
    return snapshotter


def describe(config: ClusterConfig, memory: Memory) -> dict[str, Any]:
    """What the status says of durability."""
    return {
        "durability": config.durability,
        "machine": config.machine,
        "life": memory.lives.lives.life,
    }
