"""`unshare --map-root-user --mount python -m tests.cluster.small_tmpfs DIRECTORY`: a replica on a
tmpfs that somebody else fills up. A pool's blocks are all reserved when it is made, so it does not
mind; what has to be made anew is refused with a reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mpaxos.errors import StorageFull
from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient

SETTINGS = {
    "pool.size": "32 MiB",
    "pool.log_size": "8 MiB",
    "limits.max_batch": "64 KiB",
    "limits.max_sessions": "1024",
    "limits.max_reply_slots": "4096",
}


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def main(directory: Path) -> None:
    """Raises when anything is not as it should be."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", directory], check=True)
    with LocalCluster(directory / "cluster", replicas=1, settings=SETTINGS) as cluster:
        cluster.initialise()
        cluster.start()
        cluster.wait_in_step()
        fill(directory / "others")
        with KeyValueClient(cluster.addresses) as kv:
            for number in range(500):
                kv.put(f"{number}", bytes(4000))
        cluster.kill(0)
        cluster.start()
        cluster.wait_in_step()
        with KeyValueClient(cluster.addresses) as kv:
            assert kv.size() == 500
        (directory / "others").unlink()
    second = LocalCluster(directory / "second", replicas=1, settings=SETTINGS)
    try:
        second.initialise()
    except StorageFull as error:
        assert "no room for a pool" in str(error), error
    else:
        raise AssertionError("a pool was made where there is no room for it")
    assert not list(second.config.directory(0).glob("pool*"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
