"""Scratch pools: where a volatile machine lives.

A scratch pool is a libpmemobj pool like any other, so it runs the same native engine with the
same replies and digests; but it lies in memory, is made anew at every start, and its file
loses its name as soon as it is open. So nothing of it is left when the process ends, however it
ends, and nothing can be mistaken for state.

All of it is reserved when it is made (about half a millisecond per MiB): a tmpfs that is full
shows at start as StorageFull, and not as SIGBUS in the middle of a command.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from mpaxos._native import Pool
from mpaxos.config import ClusterConfig
from mpaxos.errors import ConfigError, StorageFull
from mpaxos.storage.files import NEW

SMALLEST_LOG = 1 << 20
"""Bytes of a log ring that nothing is written to, because the log lies elsewhere."""


def scratch_path(config: ClusterConfig, replica: int) -> Path:
    """Where the scratch pool of a replica has its name while it is made: the same at every start,
    so that what a crash in that moment leaves is taken away by the next one; and no other for the
    same data directory, which only one process can have locked."""
    place = str(config.directory(replica).resolve()).encode()
    suffix = hashlib.blake2b(place, digest_size=4).hexdigest()
    return (
        Path(config.base, config.pool.scratch).absolute() / f"mpaxos-{config.id}-{replica}-{suffix}"
    )


def make_scratch(config: ClusterConfig, replica: int, *, installing: bool) -> Pool:
    """A new scratch pool, open, with the sizes and limits of the cluster file.

    `installing`: for an image, see Pool.create. Raises ConfigError (there is no such directory),
    StorageFull (no room for it).
    """
    path = scratch_path(config, replica)
    if not path.parent.is_dir():
        raise ConfigError(
            f"pool.scratch = {config.pool.scratch!r}: there is no such directory; name one on "
            "tmpfs (machine = 'volatile' keeps its state there)"
        )
    for name in (path, path.with_name(path.name + NEW)):
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
    limits = config.limits
    try:
        Pool.create(
            str(path),
            size=config.pool.size,
            log_size=SMALLEST_LOG if config.log_apart else config.pool.log_size,
            cluster=config.cluster_id,
            replica=replica,
            replicas=len(config.replicas),
            machine=config.service,
            state_limit=config.state_limit,
            max_sessions=limits.max_sessions,
            max_reply_slots=limits.max_reply_slots,
            installing=installing,
        )
    except StorageFull as error:
        raise StorageFull(
            f"{error}, or another directory (pool.scratch); nothing of the replica's data is there"
        ) from error
    try:
        return Pool(
            str(path),
            cluster=config.cluster_id,
            replica=replica,
            size=config.pool.size,
            installing=installing,
        )
    finally:
        path.unlink()
