"""Checks that stay on in production."""

from __future__ import annotations


class InvariantViolated(Exception):
    """Something that must never happen has happened. The replica stops rather than go on with a
    state that cannot be right."""


def invariant(condition: object, text: str) -> None:
    """Raise InvariantViolated(text) unless `condition` holds. Unlike `assert` this stays on under
    `python -O`."""
    if not condition:
        raise InvariantViolated(text)
