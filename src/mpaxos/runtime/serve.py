"""One replica process, from its directory and its cluster file to the loop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from types import FrameType

from mpaxos._native import Batch, Engine, Pool
from mpaxos.config import ClusterConfig
from mpaxos.core.output import Snapshotted
from mpaxos.core.replica import Replica
from mpaxos.net.plane import Notice
from mpaxos.runtime import assemble
from mpaxos.runtime.held import DurableWatch
from mpaxos.runtime.loop import Loop
from mpaxos.runtime.scheduling import schedule
from mpaxos.runtime.scratch_sink import ScratchSink
from mpaxos.runtime.service import load_service
from mpaxos.runtime.sinks import finish_switch, make_sink
from mpaxos.runtime.status import Status
from mpaxos.runtime.transfer import Transfers
from mpaxos.runtime.transfer_report import TransferReport
from mpaxos.storage.directory import ReplicaDirectory, open_directory
from mpaxos.storage.memory import open_memory, taken_over

log = logging.getLogger("mpaxos")

PATIENCE = 5.0
"""Seconds that a command may go on after the replica was asked to stop."""


def serve(config: ClusterConfig, number: int) -> int:
    """Run replica `number` of the cluster until SIGTERM or SIGINT; returns the exit status, 0.

    Raises ConfigError (a port in use, a service that is not there), StorageError, or
    InvariantViolated when the replica must not go on; its data is then left as it is.
    """
    started = _process_start()
    _start_logging(number)
    schedule(config.scheduling)
    path = config.directory(number)
    with open_directory(path, config.cluster_id, number, config) as directory:
        taken: Pool | None = None
        again = True
        while again:
            finish_switch(directory)
            with Process(config, number, directory, started, taken) as process:
                again = process.run()
                taken = process.take() if again else None
            # It ended with a switch to another store: the next one begins at once.
            gc.unfreeze()
    return 0


class Process:
    """Everything one replica process consists of, put together. A context manager."""

    def __init__(
        self,
        config: ClusterConfig,
        number: int,
        directory: ReplicaDirectory,
        started: float,
        taken: Pool | None = None,
    ) -> None:
        """`started`: see Status. `taken`: the scratch pool to go on with."""
        incarnation = int.from_bytes(os.urandom(8)) >> 1
        service = load_service(config.service)
        fresh = taken is None
        memory = open_memory(directory, config) if taken is None else taken_over(directory, taken)
        self._memory = memory
        self._store = memory.store
        engine = Engine(memory.pool)
        self._machine = assemble.make_machine(service, config, engine, memory.pool.applied_time)
        assemble.catch_up_locally(memory, self._machine)
        # From here on clients find a replica; and a port in use must not cost a life.
        self._sockets, self._plane = assemble.make_plane(config, number, incarnation, memory.lives)
        if fresh:
            memory.lives.begin(config.durability)
        assemble.introduce(self._sockets, memory.lives.lives)
        recovered = assemble.recovered(memory)
        memory.accept()
        applier = assemble.make_applier(service, self._machine, self._plane)
        self._applier = assemble.remembering(applier, memory)
        self._snapshotter = assemble.make_snapshotter(
            memory, engine, config, self._applier, self._plane
        )
        epoch = time.time_ns() - time.monotonic_ns()
        self._replica = Replica(
            config.settings(number),
            recovered,
            self._store,
            incarnation=incarnation,
            make_noop=Batch.noop,
            epoch=epoch,
            seed=incarnation,
        )
        self._sink = make_sink(directory, memory, config)
        wake = self._plane.wake
        self._transfers = Transfers(engine, self._applier, self._sink, wake, self._replica)
        self._transfer_report = TransferReport(self._replica)
        self._status = Status(
            cluster=config.name,
            service=config.service,
            plane=self._plane,
            replica=self._replica,
            memory=memory,
            setting=assemble.describe(config, memory),
            snapshots=None if self._snapshotter is None else self._snapshotter.report,
            machine=self._machine,
            applier=self._applier,
            state_digest=engine.state_digest,
            transfer=self._transfer_report.report,
            started=started,
        )
        self._loop = Loop(
            self._plane,
            self._replica,
            self._store,
            self._applier,
            on_admin=self._status.answer,
            on_notice=_log_notice,
            later=memory.later,
            background=self._transfers,
            steady=assemble.make_steady(
                self._replica, memory, engine, self._applier, self._plane, epoch, incarnation
            ),
        )
        self._watch = (
            None if memory.later is None else DurableWatch(memory.later.fileno(), self._plane.wake)
        )
        self._status.loop = self._loop
        self._last_view: tuple[int | None, bool, bool] = (-1, False, False)
        self._turns, self._switched = 0, False

    def run(self) -> bool:
        """Serve until a signal asks to stop; True when a new life is to begin at once, because
        another store is in the place of this one."""

        def stop(signum: int, frame: FrameType | None) -> None:
            self._loop.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        peer, client, jpaxos = self._sockets.ports()
        log.info(
            "serving clients on port %d%s, peers on port %d; applied up to slot %d, promised %s",
            client,
            f" and JPaxos clients on {jpaxos}" if jpaxos else "",
            peer,
            self._replica.applied_upto,
            self._replica.ballot,
        )
        # What start-up built lives as long as the process: keep it out of collections.
        gc.collect()
        gc.freeze()
        while not self._loop.stopping:
            self._loop.turn()
            if self._snapshotter is not None:
                taken = self._snapshotter.after_turn(self._loop.output)
                if taken is not None:
                    self._loop.inject(Snapshotted(taken.mark.slot))
            self._status.after_turn()
            self._transfer_report.after_turn()
            self._log_changes()
            if self._transfers.switch is not None and self._transfers.stop_installing():
                self._loop.finish()
                self._transfers.switch_store(self._store)
                self._switched = True
                return True
        self._loop.finish()
        log.info("stopped on request")
        return False

    def take(self) -> Pool | None:
        """After run() was True: the scratch pool to go on with, if the next one is in none of the
        directory's files."""
        return self._sink.take() if isinstance(self._sink, ScratchSink) else None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self._plane.close()
        if self._watch is not None:
            self._watch.close()
        installed = self._transfers.stop_installing()
        if self._applier.stop(PATIENCE) and installed:
            self._transfers.close()
            if self._snapshotter is not None:
                self._snapshotter.close()
            self._memory.close()
            return
        # A command still runs, and the pool cannot be closed under it. Ending here is a crash as
        # far as the command is concerned: it is applied again, as a whole, after the next start.
        log.warning("a command still runs after %s s: leaving without it", PATIENCE)
        logging.shutdown()
        if self._switched:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        os._exit(0 if exc[0] is None else 1)

    def _log_changes(self) -> None:
        replica = self._replica
        self._turns += 1
        if replica.leader == self._last_view[0] and self._turns % 64:
            return  # to be too far behind, or to recover, is no news of a single turn
        recovering = replica.waits_for
        view = (replica.leader, replica.too_far_behind, recovering is not None)
        if view == self._last_view:
            return
        self._last_view = view
        if replica.too_far_behind:
            log.error(
                "the logs of all other replicas start after slot %d, the next one needed here: "
                "this replica still votes, and answers its clients once it has received the state",
                replica.decided_upto + 1,
            )
        elif recovering is not None:
            log.warning("recovering, takes no part yet: waits for %s", recovering)
        elif replica.is_leader:
            log.info("leading, ballot %s", replica.ballot)
        elif replica.leader is not None:
            log.info("following replica %d, ballot %s", replica.leader, replica.ballot)
        else:
            log.info("no leader is known")


def _log_notice(notice: Notice) -> None:
    log.warning("%s port, %s: %s", *notice)


def _start_logging(number: int) -> None:
    logging.basicConfig(
        level=os.environ.get("MPAXOS_LOG_LEVEL", "INFO").upper(),
        format=f"%(asctime)s replica {number} %(levelname)s %(message)s",
        stream=sys.stderr,
    )


def _process_start() -> float:
    """When this process was started by the operating system, in seconds of time.monotonic().

    Linux counts it in ticks of 10 ms since boot; elsewhere it is now.
    """
    try:
        with open("/proc/self/stat", encoding="ascii") as stat:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return time.monotonic()
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
