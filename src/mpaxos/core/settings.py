"""Numbers the protocol runs by. Times are nanoseconds."""

from __future__ import annotations

import msgspec

from mpaxos.core.types import Instant, ReplicaId

MILLISECOND: Instant = 1_000_000
SECOND: Instant = 1_000_000_000


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's view of the protocol's numbers. The replicas are 0 .. replicas - 1."""

    replica: ReplicaId
    replicas: int
    window: int = 16
    """Slots a leader may have in flight."""
    local_batches: int = 8
    """Batches of a replica's own clients that may wait for their decision."""
    heartbeat: Instant = 50 * MILLISECOND
    election: Instant = 400 * MILLISECOND
    """Shortest silence of the leader after which a replica seeks votes; each time a random
    part of `election_spread` is added, so that two seldom start together."""
    election_spread: Instant = 250 * MILLISECOND
    down_spread: Instant = 50 * MILLISECOND
    """When the connection to the leader broke, the wait is a random part of this alone."""
    retry: Instant = 200 * MILLISECOND
    """Unanswered prepares, accepts, forwards, read-index and catch-up requests are repeated."""
    quorum_grace: Instant = 2 * SECOND
    """So long without a known leader, and clients are told that there is no quorum."""
    max_apply_lag: int = 512
    """Slots handed to the state machine and not applied yet; beyond it this replica neither
    proposes nor votes further ahead."""
    catchup_slots: int = 256
    catchup_bytes: int = 1 << 20
    state_credit: int = 8 << 20
    """Bytes of a state transfer under way: sent, or waiting to be installed."""
    state_patience: Instant = 10 * SECOND
    """A state transfer that makes no progress for so long is given up, on both sides."""
    mark_interval: int = 32
    """Digests are compared at slots that are multiples of this."""
    record_overhead: int = 128
    """Upper bound of what the log adds to the bytes of a batch."""
    early_accepts: bool = False
    """A leader's accepts leave before its own record is durable; its vote follows. That costs a
    message more, and where a write takes long it is done while the others do theirs."""

    @property
    def horizon(self) -> int:
        """How far beyond its decided slots a replica accepts. Twice the window, so that a
        replica that is not behind accepts whatever a leader may send."""
        return 2 * self.window
