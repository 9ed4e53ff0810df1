"""The checker is checked: storage code broken on purpose is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.given import probe
from tests.crash.mutants import MUTANTS, Mutant, mutated, try_mutant
from tests.crash.shim import environment


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_each_mutant_is_there_once(mutant: Mutant) -> None:
    assert mutated(mutant)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.always], ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    """`make crash` tries those that are not tried here."""
    verdict = try_mutant(mutant, tmp_path)
    assert verdict.caught, f"{verdict.outcome.images} images were all recovered"


def test_a_mutant_that_cannot_be_loaded_is_not_caught(tmp_path: Path) -> None:
    native = tmp_path / "_native.so"
    native.write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="not what the workloads run on"):
        probe(native, environment(native))
