"""Which replica to try next, and when."""

from __future__ import annotations

import random

from mpaxos.client.options import Address, address_text
from mpaxos.errors import VersionMismatch

_FIRST_DELAY, _LONGEST_DELAY = 0.01, 0.5
"""Seconds between attempts once every replica has failed, doubling."""


class Rotation:
    """The addresses of a cluster, and what came of the attempts so far."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        # Clients that are given the same list spread over the replicas.
        self._at = random.randrange(len(addresses))
        self._failures = 0
        self._mismatches = 0
        self._unreachable = 0
        self.trouble = "no attempt was made yet"
        """Address and reason of the last failure."""

    def current(self) -> Address:
        """Whom to try."""
        return self._addresses[self._at]

    def ended(self, trouble: Exception | str, *, reached: bool, useful: bool) -> None:
        """The attempt or connection is over: the next one is another replica's turn. After a useful
        one it comes without delay. `reached`: a replica welcomed us."""
        text = str(trouble) or type(trouble).__name__
        self.trouble = f"{address_text(self.current())}: {text}"
        self._mismatches = self._mismatches + 1 if isinstance(trouble, VersionMismatch) else 0
        self._unreachable = 0 if reached else self._unreachable + 1
        self._failures = 0 if useful else self._failures + 1
        self._at = (self._at + 1) % len(self._addresses)

    @property
    def all_mismatch(self) -> bool:
        """Every replica in turn was of another version. During an upgrade a single one may be."""
        return self._mismatches >= len(self._addresses)

    @property
    def none_reachable(self) -> bool:
        """Every replica in turn could not be reached."""
        return self._unreachable >= len(self._addresses)

    def delay(self) -> float:
        """Seconds to wait before the next attempt. The other replicas are tried at once: when one
        dies, its clients should notice little; then exponentially longer, with jitter, so that they
        do not all come back together."""
        over = self._failures - len(self._addresses)
        delay = (
            _FIRST_DELAY * 2 ** min(over, 8) if over > 0 else _FIRST_DELAY * bool(self._failures)
        )
        return min(delay, _LONGEST_DELAY) * random.uniform(0.5, 1.0)
