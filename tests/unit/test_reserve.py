"""The memory of a new pool: all of it there, in large pages where the kernel has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos._native import gives_large_pages
from mpaxos.config.files import LARGE_POOL, small_pages
from tests.unit import pools

ODD = pools.SIZE + (1 << 20) + 12_288
"""Not a multiple of a large page, nor of a step."""


@pytest.fixture
def memory() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory


def mapped(path: Path) -> dict[str, int]:
    """KiB of what this process has mapped of a file, by the names of proc(5)."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if " " in name:
            inside = line.endswith(str(path))
        elif inside and value.endswith("kB"):
            found[name] = found.get(name, 0) + int(value.split()[0])
    return found


def reserved(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("installing", [False, True])
def test_large_pages_without_asking_the_mount(memory: Path, installing: bool) -> None:
    if not gives_large_pages(str(memory)):
        pytest.skip("this kernel gives no large pages")
    path = memory / "pool"
    pools.make(path, installing=installing)
    pool = pools.reopen(path, installing=installing)
    found = mapped(path)
    pool.close()
    assert found["ShmemPmdMapped"] == found["Rss"] > 0
    assert reserved(path) == pools.SIZE


def test_a_pool_that_is_soon_replaced_is_not_made_ready(memory: Path) -> None:
    if small_pages(memory, LARGE_POOL) is None:
        pytest.skip("no tmpfs, or one whose pages are large by themselves")
    path = memory / "pool"
    pools.make(path, brief=True)
    pool = pools.reopen(path)
    found = mapped(path)
    pool.close()
    assert found["ShmemPmdMapped"] == 0 < found["Rss"]
    assert reserved(path) == pools.SIZE


@pytest.mark.parametrize("installing", [False, True])
@pytest.mark.parametrize("in_memory", [False, True])
def test_all_of_it_is_reserved(
    memory: Path, tmp_path: Path, in_memory: bool, installing: bool
) -> None:
    path = (memory if in_memory else tmp_path) / "pool"
    pools.make(path, size=ODD, installing=installing)
    assert path.stat().st_size == ODD
    assert reserved(path) >= ODD
    pools.reopen(path, size=ODD, installing=installing).close()


WITHOUT = """
import ctypes, os, sys
from pathlib import Path
from mpaxos._native import gives_large_pages
from tests.unit import pools

PR_SET_THP_DISABLE = 41
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
path = Path(sys.argv[1], "pool")
assert not gives_large_pages(sys.argv[1])
for installing in (False, True):
    pools.make(path, size=int(sys.argv[2]), installing=installing)
    assert os.stat(path).st_blocks * 512 >= int(sys.argv[2])
    pools.reopen(path, size=int(sys.argv[2]), installing=installing).close()
    path.unlink()
"""


def test_where_the_kernel_gives_none_small_pages_do(memory: Path) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT, str(memory), str(ODD)], check=True)


def test_a_disk_gives_none_and_nothing_is_left_of_the_question(tmp_path: Path) -> None:
    assert not gives_large_pages(str(tmp_path))
    assert not gives_large_pages(str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []
