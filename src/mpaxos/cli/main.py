"""Entry of the `mpaxos` command.

`mpaxos serve` goes its own short way: a replica that comes back from a crash should not first load
the libraries that draw tables.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line in sys.argv; returns the exit status."""
    words = sys.argv[1:]
    if words[:1] == ["serve"] and not {"--help", "-h"} & set(words):
        from mpaxos.cli.serve import serve_command

        return serve_command(words[1:])
    from mpaxos.cli.app import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
