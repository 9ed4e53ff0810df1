"""How the command line ends when something is wrong: one line on stderr, no traceback."""

from __future__ import annotations

import sys

from mpaxos.errors import ConfigError, InvariantViolated, StorageError

OK, FAILED, USAGE, STORAGE = 0, 1, 2, 3
"""Exit statuses: done; anything else; wrong arguments or settings; a replica's storage."""


def report(error: Exception) -> int:
    """Print an error of mpaxos.errors; returns the exit status."""
    text = " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__
    if isinstance(error, InvariantViolated):
        text = f"stopped: {text} (this must never happen; keep the data directory for analysis)"
    rest = str(error).partition("\n")[2]
    print(f"mpaxos: {text}", file=sys.stderr)
    if rest:
        print(rest, file=sys.stderr)
    return status_of(error)


def status_of(error: Exception) -> int:
    """The exit status for an error."""
    if isinstance(error, ConfigError):
        return USAGE
    return STORAGE if isinstance(error, StorageError) else FAILED
