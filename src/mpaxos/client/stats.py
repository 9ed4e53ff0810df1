"""Counters of one client, for progress displays and tests."""

from __future__ import annotations


class Stats:
    """What a client has seen so far; read it at any time, also from another thread.

    Attributes:
        sent: entries sent, repetitions included.
        answered: requests answered, errors of the state machine included.
        reconnects: connections made after the first.
        longest_gap_seconds: longest time in which requests were open and none was answered.
    """

    __slots__ = ("_since", "answered", "longest_gap_seconds", "reconnects", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0
        self.reconnects = 0
        self.longest_gap_seconds = 0.0
        self._since = 0.0

    def reset_gap(self) -> float:
        """Start a new measurement; returns the longest gap of the last one."""
        longest, self.longest_gap_seconds = self.longest_gap_seconds, 0.0
        return longest

    def became_busy(self, now: float) -> None:
        """A request was made while none was open."""
        self._since = now

    def was_answered(self, count: int, now: float) -> None:
        """Requests were answered."""
        self.answered += count
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self._since)
        self._since = now

    def __repr__(self) -> str:
        return (
            f"Stats(sent={self.sent}, answered={self.answered}, reconnects={self.reconnects}, "
            f"longest_gap_seconds={self.longest_gap_seconds:.3f})"
        )
