"""From snapshot and log back to the state of a volatile machine.

The newest snapshot that is valid is installed in a new scratch pool; a damaged one is passed over.
Then what the log has beyond it, and knows to be decided, is applied again (replay): the same
batches in the same order give the same state, replies and digests. The rest of the log, the last
slots before the crash, is for the protocol to decide.
"""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Callable
from typing import Any

import msgspec

from mpaxos._native import ImageTarget, Pool
from mpaxos.config import ClusterConfig
from mpaxos.core.types import Mark, Slot
from mpaxos.errors import ConfigError, ImageError, StorageCorrupt, WireError
from mpaxos.storage.scratch import make_scratch
from mpaxos.storage.snapshots import NO_SNAPSHOT, Snapshot, Snapshots
from mpaxos.storage.store import KeptLog

log = logging.getLogger("mpaxos.storage")

REPORT_EVERY = 2.0
"""Seconds between two lines of the log that say how far a replay is."""


class Restored(msgspec.Struct):
    """What restore() found."""

    pool: Pool
    """A scratch pool with the state of the snapshot."""
    snapshot: Snapshot
    damaged: list[Slot]
    """Newer snapshots that cannot be used."""


def restore(config: ClusterConfig, replica: int, snapshots: Snapshots) -> Restored:
    """A new scratch pool with the state of the newest valid snapshot, or with none.

    Raises StorageForeign, StorageVersion (a snapshot of something else: it is not passed over),
    StorageFull (no room for the pool), ConfigError (limits of the state were changed).
    """
    snapshots.clean()
    damaged: list[Slot] = []
    for slot in snapshots.slots():
        pool = make_scratch(config, replica, installing=True)
        try:
            snapshot = _install(pool, snapshots, slot)
            return Restored(pool, snapshot, damaged)
        except StorageCorrupt as error:
            pool.close()
            damaged.append(slot)
            log.error("%s; an older snapshot may do", error)
        except BaseException:
            pool.close()
            raise
    return Restored(make_scratch(config, replica, installing=False), NO_SNAPSHOT, damaged)


def _install(pool: Pool, snapshots: Snapshots, slot: Slot) -> Snapshot:
    target = ImageTarget(pool)
    path = snapshots.path(slot)

    def install(chunk: bytes) -> None:
        try:
            target.install(chunk)
        except WireError as error:
            raise StorageCorrupt(f"{path} is damaged: {error}") from error
        except ImageError as error:
            if target.progress()["next"] == 0:
                # Its checksums fit, and the first chunk names the limits.
                raise ConfigError(
                    f"{path}: {error}. The limits of state and sessions were changed since it was "
                    "written (limits.*, or pool.size, which state_limit follows): set them back"
                ) from error
            raise StorageCorrupt(f"{path} is damaged: {error}") from error

    snapshot = snapshots.read(slot, install)
    found = Mark(pool.applied_upto, pool.applied_digest)
    if not target.complete or found != snapshot.mark:
        raise StorageCorrupt(f"{path} is damaged: it holds the state of slot {found.slot}")
    return snapshot


def replay(
    kept: KeptLog, applied: Slot, apply: Callable[[Slot, int, Any], object]
) -> tuple[Slot, float]:
    """Apply what the log knows to be decided beyond `applied`; the last slot, and the seconds it
    took. Raises StorageCorrupt when the log lacks a slot."""
    started = reported = clock.monotonic()
    last = max(applied, kept.decided_upto)
    for slot in range(applied + 1, last + 1):
        record = kept.read(slot)
        if record is None:
            raise StorageCorrupt(
                f"the log has no record of slot {slot}, though it has been decided up to slot "
                f"{last}: restore the log from a good copy, or replace the replica"
            )
        apply(slot, record.value.time, record.value.batch)
        now = clock.monotonic()
        if now - reported > REPORT_EVERY:
            reported = now
            log.info("applying the log again: slot %d of %d", slot, last)
    return last, clock.monotonic() - started
