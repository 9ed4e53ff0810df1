"""A scratch pool beside the one in use: where log and state both live in memory only.

A replica whose votes do not outlive its process (durability "view", "epoch", "none") must not end
the process to take over a state: it would forget them. So the new pool gets promise and records
from the old one while both are open, and the process goes on with it, in the same life.
"""

from __future__ import annotations

from mpaxos._native import Chunk, ImageTarget, Pool
from mpaxos.config import ClusterConfig
from mpaxos.core.transfer import carried_over
from mpaxos.core.types import Slot
from mpaxos.errors import invariant
from mpaxos.storage.pmem import PmemStore
from mpaxos.storage.scratch import make_scratch
from mpaxos.storage.store import Store


class ScratchSink:
    """mpaxos.runtime.transfer.StateSink for a replica that keeps no log."""

    def __init__(self, config: ClusterConfig, replica: int) -> None:
        self._config = config
        self._replica = replica
        self._pool: Pool | None = None
        self._target: ImageTarget | None = None
        self._taken: Pool | None = None

    @property
    def prepared(self) -> bool:
        """Never: what it needs is gone with the process."""
        return False

    def found(self) -> tuple[int, int] | None:
        """Nothing: it is gone with the process."""
        return None

    def begin(self) -> None:
        """Raises StorageFull, ConfigError."""
        self.drop()
        self._pool = make_scratch(self._config, self._replica, installing=True)
        self._target = ImageTarget(self._pool)

    def install(self, data: bytes | Chunk) -> Slot | None:
        if self._pool is None or self._target is None:
            invariant(False, "a chunk without a place for it")
            return None
        return self._pool.applied_upto if self._target.install(data) else None

    def drop(self) -> None:
        self._target = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def switch(self, store: Store, slot: Slot) -> None:
        """The new pool is then the one that take() gives."""
        recovered = store.recovered()
        invariant(slot >= recovered.applied.slot, f"a switch back to slot {slot}")
        invariant(
            self._pool is not None and self._target is not None and self._target.complete,
            "a switch to a state that is not complete",
        )
        if self._pool is not None:
            PmemStore(self._pool).write(carried_over(recovered, store, slot))
        self._taken, self._pool, self._target = self._pool, None, None

    def take(self) -> Pool | None:
        """The pool that was switched to: the caller's from here on."""
        taken, self._taken = self._taken, None
        return taken
