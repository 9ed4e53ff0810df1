"""The sections and keys of a cluster file, as types."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from mpaxos.config.durability import KEEPS_LOG, default_machine
from mpaxos.config.values import KIB, MIB, Address, Size, parse_address
from mpaxos.core.settings import MILLISECOND, Settings
from mpaxos.errors import ConfigError

BATCH_OVERHEAD = 64
"""Bytes that a batch of one request has beside the request: header and entry (docs/wire.md)."""

RECORD_UNIT = 64
"""A record in a log begins with a header of this size and takes a multiple of it."""

RECORDS_PER_SEGMENT = 16
"""Of the largest size, in a segment of the log on disk: what its end wastes is then little."""

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=600_000)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections of the file; attributes are its keys."""


class PoolConfig(Section, frozen=True, kw_only=True):
    """`[pool]`: one replica's memory. Read when a replica is initialised; a scratch pool is made
    anew at every start."""

    size: Size = 512 * MIB
    """Bytes of the pool file."""
    log_size: Size = 128 * MIB
    """Bytes of the log: how far replicas may lie behind each other. It is a part of the pool,
    unless it lies beside it: on disk, or in a persistent pool of its own beside a volatile
    machine."""
    scratch: str = "/dev/shm"
    """Directory for the scratch pool of a volatile machine: memory, such as tmpfs; relative to that
    of the cluster file. What lies there is never trusted after a crash, and is gone by itself."""


class DiskConfig(Section, frozen=True, kw_only=True):
    """`[disk]`: the write-ahead log of `durability = "disk"`. Read when it is initialised."""

    segment_size: Size | None = None
    """Bytes of one of its files; none: as small as the largest batch allows."""


class SnapshotsConfig(Section, frozen=True, kw_only=True):
    """`[snapshots]`: when a volatile machine's state is written to the replica's directory."""

    ratio: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 1.0
    """A snapshot is taken when this many times the bytes of the last one have been applied."""
    minimum: Size = 16 * MIB
    """Bytes that are applied at least between two snapshots, unless the log needs the room."""


class LimitsConfig(Section, frozen=True, kw_only=True):
    """`[limits]`: what clients may ask for. Equal on all replicas."""

    max_request: Size = MIB
    """Bytes of one request."""
    max_batch: Size = 256 * KIB
    """Bytes after which a batch is closed; one larger request travels alone."""
    max_pending: Size = 8 * MIB
    """Bytes of requests a replica holds before it stops reading from its clients."""
    max_connections: Count = 10_000
    max_sessions: Count = 16_384
    max_reply_slots: Count = 262_144
    """Sum of the windows of all sessions: replies kept for clients that may ask again."""
    state_limit: Size | None = None
    """Bytes of state; none: 60 % of what log, sessions and replies leave of the pool."""


class ProtocolConfig(Section, frozen=True, kw_only=True):
    """`[protocol]`: the numbers of mpaxos.core.settings, times in milliseconds."""

    heartbeat_ms: Milliseconds = 50
    election_ms: Milliseconds = 400
    election_spread_ms: Milliseconds = 250
    down_spread_ms: Milliseconds = 50
    retry_ms: Milliseconds = 200
    quorum_grace_ms: Milliseconds = 2000
    window: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    local_batches: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    max_apply_lag: Count = 512
    catchup_slots: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    catchup_bytes: Size = MIB


class ReplicaConfig(Section, frozen=True, kw_only=True):
    """One `[[replicas]]`: where a replica listens, how others reach it, where its data is."""

    id: Annotated[int, msgspec.Meta(ge=0, le=6)]
    peer: str
    """host:port under which the other replicas reach it."""
    client: str
    """host:port under which clients reach it."""
    directory: str
    """Its data; relative to the directory of the cluster file."""
    jpaxos: str | None = None
    """host:port for clients written for JPaxos; none: not served."""
    listen_peer: str | None = None
    """host:port to bind when it differs from the advertised one (behind NAT, in a container)."""
    listen_client: str | None = None
    listen_jpaxos: str | None = None


class ClusterConfig(Section, frozen=True, kw_only=True):
    """A whole, checked cluster file."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    id: str
    """32 hexadecimal digits, different for every cluster there ever is."""
    service: str = "mpaxos.services.kv:KeyValue"
    durability: str = "pmem"
    """What is durable before an acceptor answers; see docs/durability.md."""
    machine: str = ""
    """Where the state lives: "persistent" or "volatile"; empty: what suits the durability."""
    scheduling: str = "batch"
    """How a replica shares processors that are all busy: "batch", or "inherited" from what started
    it; see mpaxos.runtime.scheduling. Each replica may have its own."""
    pool: PoolConfig = PoolConfig()
    disk: DiskConfig = DiskConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    limits: LimitsConfig = LimitsConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    replicas: tuple[ReplicaConfig, ...] = ()
    base: str = "."
    """Directory of the cluster file; not a key of it."""

    @property
    def cluster_id(self) -> bytes:
        """The 16 bytes of `id`."""
        return bytes.fromhex(self.id)

    def __post_init__(self) -> None:
        if not self.machine:
            msgspec.structs.force_setattr(self, "machine", default_machine(self.durability))

    @property
    def volatile(self) -> bool:
        """The state lives in a scratch pool."""
        return self.machine == "volatile"

    @property
    def log_apart(self) -> bool:
        """The log survives a crash that the state does not: it lies beside the pool."""
        return self.volatile and self.durability in KEEPS_LOG

    @property
    def state_limit(self) -> int:
        """Bytes of state: the setting, or its default for this pool."""
        if self.limits.state_limit is None:
            return default_state_limit(self.pool, self.limits, log_apart=self.log_apart)
        return self.limits.state_limit

    @property
    def largest_record(self) -> int:
        """Bytes that the largest batch takes in a log: one request may travel alone."""
        limits = self.limits
        largest = max(limits.max_batch, limits.max_request + BATCH_OVERHEAD)
        return -(-largest // RECORD_UNIT) * RECORD_UNIT + RECORD_UNIT

    @property
    def segment_size(self) -> int:
        """Bytes of a segment of the log on disk: the setting, or 16 times the largest record (what
        a segment takes at least), rounded up to a whole MiB."""
        if self.disk.segment_size is None:
            return -(-RECORDS_PER_SEGMENT * self.largest_record // MIB) * MIB
        return self.disk.segment_size

    def replica(self, number: int) -> ReplicaConfig:
        """The entry of replica `number`. Raises ConfigError when there is none."""
        for entry in self.replicas:
            if entry.id == number:
                return entry
        known = ", ".join(str(entry.id) for entry in self.replicas)
        raise ConfigError(f"cluster {self.name!r} has no replica {number}; it has {known}")

    def directory(self, number: int) -> Path:
        """Absolute path of a replica's data directory."""
        return (Path(self.base) / self.replica(number).directory).absolute()

    def peers_of(self, number: int) -> dict[int, Address]:
        """Advertised peer addresses of all replicas but `number`."""
        return {r.id: parse_address(r.peer) for r in self.replicas if r.id != number}

    def listen_peer(self, number: int) -> Address:
        """What replica `number` binds for the other replicas."""
        entry = self.replica(number)
        return parse_address(entry.listen_peer or entry.peer, zero=True)

    def listen_client(self, number: int) -> Address:
        """What replica `number` binds for clients."""
        entry = self.replica(number)
        return parse_address(entry.listen_client or entry.client, zero=True)

    def listen_jpaxos(self, number: int) -> Address | None:
        """What replica `number` binds for JPaxos clients; None: they are not served."""
        entry = self.replica(number)
        text = entry.listen_jpaxos or entry.jpaxos
        return None if text is None else parse_address(text, zero=True)

    def client_addresses(self) -> list[str]:
        """host:port of every replica's client port, in order of their ids."""
        return [entry.client for entry in self.replicas]

    def settings(self, number: int) -> Settings:
        """The protocol's numbers for replica `number`."""
        p = self.protocol
        return Settings(
            replica=self.replica(number).id,
            replicas=len(self.replicas),
            window=p.window,
            local_batches=p.local_batches,
            heartbeat=p.heartbeat_ms * MILLISECOND,
            election=p.election_ms * MILLISECOND,
            election_spread=p.election_spread_ms * MILLISECOND,
            down_spread=p.down_spread_ms * MILLISECOND,
            retry=p.retry_ms * MILLISECOND,
            quorum_grace=p.quorum_grace_ms * MILLISECOND,
            max_apply_lag=p.max_apply_lag,
            catchup_slots=p.catchup_slots,
            catchup_bytes=p.catchup_bytes,
            early_accepts=self.durability == "disk",
        )


def default_state_limit(pool: PoolConfig, limits: LimitsConfig, *, log_apart: bool = False) -> int:
    """Bytes of state a pool is trusted with when the file does not say: 60 % of what is left, less
    in a small pool, of which libpmemobj needs a dozen MiB for itself.

    A reply cell is counted with 64 bytes and a session with 256. The rest pays for the replies
    themselves, for the tree above the items and for what the allocator loses to fragmentation;
    the limit has to bite on all replicas alike before the allocator runs dry on one. `log_apart`:
    the log takes nothing of the pool.
    """
    log_size = MIB if log_apart else pool.log_size
    fixed = log_size + limits.max_reply_slots * 64 + limits.max_sessions * 256 + 4 * MIB
    room = max(0, pool.size - fixed)
    return min(room * 6 // 10, max(0, room - 10 * MIB) * 2 // 3)


def agreement(config: ClusterConfig) -> int:
    """64-bit digest over the settings that must be equal on all replicas.

    Replicas tell it to each other when they connect and refuse one that differs: these settings
    decide what a command does or whether a message can be taken at all.
    """
    limits = config.limits
    parts = {
        "id": config.id,
        "service": config.service,
        "durability": config.durability,
        "machine": config.machine,
        "replicas": len(config.replicas),
        "max_request": limits.max_request,
        "max_batch": limits.max_batch,
        "max_sessions": limits.max_sessions,
        "max_reply_slots": limits.max_reply_slots,
        "state_limit": config.state_limit,
    }
    encoded = msgspec.json.encode(parts, order="sorted")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
