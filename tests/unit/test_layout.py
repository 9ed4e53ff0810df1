"""The shape of the sources: small modules, small functions, one direction of dependencies."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpaxos

ROOT = Path(mpaxos.__file__).parent
TESTS = Path(__file__).parent.parent
NATIVE = TESTS.parent / "native"

# About 400 lines and 70 lines are what one can keep in view; a tenth more is allowed, because
# cutting in the wrong place to satisfy a number is worse than a line too many.
MODULE_LINES = 440
FUNCTION_LINES = 77

# Tests are read one at a time, not as a whole.
TEST_LINES = 880

# Native functions are not measured: it would take a parser of C++. Native files are.
NATIVE_LINES = 600

ALLOWED = {
    # part: parts it may import (itself always). The order is the layering, lowest first.
    "core": set[str](),
    "_compiled": set[str](),
    "compiled": {"_compiled"},
    "errors": {"core"},
    "_native": set[str](),
    "version": set[str](),
    "proxy": set[str](),
    "config": {"core", "errors"},
    "storage": {"core", "errors", "_native", "config"},
    "net": {"core", "errors", "_native"},
    "machine": {"core", "errors", "_native"},
    "containers": {"machine"},
    "client": {"core", "errors", "_native", "machine"},
    "services": {"errors", "machine", "containers", "client", "_native"},
    "runtime": {
        "core",
        "errors",
        "_native",
        "config",
        "storage",
        "net",
        "machine",
        "services",
        "version",
    },
    "sim": {"core", "errors", "_native", "storage", "net", "machine", "runtime"},
    "local": {"errors", "config", "client", "storage", "compiled"},
    "bench": {"errors", "_native", "config", "client", "machine", "containers", "local"},
    "demo": {"errors", "config", "client", "services", "local", "cli"},
    "cli": {
        "errors",
        "config",
        "client",
        "services",
        "local",
        "bench",
        "storage",
        "runtime",
        "sim",
        "machine",
        "version",
        "compiled",
    },
}
"""What each part of mpaxos may import of mpaxos. The root, `mpaxos`, is the public API: only
programs above it (services, demo, cli) may go through it, and tests."""

CORE_LIBRARIES = {"msgspec"} | set(sys.stdlib_module_names)
PURE_FORBIDS = {"asyncio", "os", "random", "selectors", "socket", "threading", "time"}
"""The protocol does no input or output, reads no clock and draws no numbers of its own."""

RANDOM_IN_CORE = {"random"}
"""core may name random.Random, which is handed to it; test_core_is_pure checks that no more."""


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def modules_of_tests() -> list[Path]:
    return sorted(TESTS.rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(TESTS.parent if path.is_relative_to(TESTS) else ROOT.parent))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in it; type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            assert node.module is not None
            if node.module == "mpaxos":
                yield from (f"mpaxos.{alias.name}" for alias in node.names)
            else:
                yield node.module


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", [*modules(), *modules_of_tests()], ids=relative)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    limit = TEST_LINES if path.is_relative_to(TESTS) else MODULE_LINES
    assert lines <= limit, f"{lines} lines; cut it in two"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", [*NATIVE.rglob("*.?pp")], ids=lambda path: path.name)
def test_native_files_are_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= NATIVE_LINES
    for number, line in enumerate(lines, 1):
        assert len(line) <= 100, f"line {number} has {len(line)} columns"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_modules_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a docstring is missing"


@pytest.mark.parametrize("path", [p for p in modules() if p.parent != ROOT or p.stem != "__init__"])
def test_dependencies_have_one_direction(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"{part}: say in ALLOWED what it may import"
    for name in imports(path):
        words = name.split(".")
        if words[0] != "mpaxos" or len(words) == 1:
            continue
        if words[1] not in ALLOWED:  # a name of the public API
            assert part in ("services", "demo", "cli"), f"{part} imports {name} through the root"
            continue
        assert words[1] == part or words[1] in ALLOWED[part], f"{part} must not import {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "core").glob("*.py")), ids=relative)
def test_core_is_pure(path: Path) -> None:
    for name in imports(path):
        first = name.split(".")[0]
        assert first == "mpaxos" or first in CORE_LIBRARIES, name
        assert first not in PURE_FORBIDS - RANDOM_IN_CORE, name
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "random"
        ):
            assert node.func.attr == "Random", f"line {node.lineno}: draw from the one handed in"


def test_production_checks_stay_on() -> None:
    """`assert` vanishes under python -O: use invariant()."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{relative(path)}: {node.lineno}"
