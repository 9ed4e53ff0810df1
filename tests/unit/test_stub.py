"""The type stub of the extension says what the extension is.

mypy checks our calls against the stub; this checks the stub against the extension itself. (mypy's
own stubtest does not know nanobind's functions and would have to be told to ignore all of them.)
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import mpaxos
from mpaxos import _native

STUB = Path(mpaxos.__file__).with_name("_native.pyi")

COMPARED = ("bool", "bytes", "float", "int", "str", "None")
"""Annotations that nanobind writes as we do; others it names in its own way."""

Function = ast.FunctionDef


def stub_body() -> list[ast.stmt]:
    return ast.parse(STUB.read_text()).body


def functions() -> list[tuple[str, Function]]:
    """(dotted name, definition) of every function and method of the stub but properties, and but
    those of classes that are not nanobind's: only these say what they take."""
    found = []
    for node in stub_body():
        if isinstance(node, ast.ClassDef):
            if type(runtime(node.name)) is type:
                continue
            found += [
                (f"{node.name}.{part.name}", part)
                for part in node.body
                if isinstance(part, Function) and not is_property(part)
            ]
        elif isinstance(node, Function):
            found.append((node.name, node))
    return found


def is_property(node: Function) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)


def public(thing: Any) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def runtime(name: str) -> Any:
    at: Any = _native
    for part in name.split("."):
        at = getattr(at, part)
    return at


def signature(name: str) -> Function:
    """What nanobind says of a function, as a definition. One signature each: no overloads."""
    signatures = runtime(name).__nb_signature__
    assert len(signatures) == 1, f"{name} is overloaded"
    # Defaults are written as \\0, \\1, ...: that there is one is all we compare.
    text = str(signatures[0][0])
    for number in range(20, -1, -1):
        text = text.replace(f"\\{number}", "0")
    parsed = ast.parse(f"{text}: ...").body[0]
    assert isinstance(parsed, Function)
    return parsed


def parameters(node: Function) -> list[tuple[str, str, bool]]:
    """(name, kind, has a default) of each parameter but self."""
    found = []
    spec = node.args
    places = [*spec.posonlyargs, *spec.args]
    first_default = len(places) - len(spec.defaults)
    for index, arg in enumerate(places):
        found.append((arg.arg, "place or name", index >= first_default))
    for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        found.append((arg.arg, "name", default is not None))
    return [parameter for parameter in found if parameter[0] != "self"]


def comparable(node: Function) -> dict[str, str]:
    """Annotations that can be compared."""
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    texts = {arg.arg: ast.unparse(arg.annotation) for arg in args if arg.annotation}
    if node.returns is not None:
        texts["return"] = ast.unparse(node.returns)
    return {name: text for name, text in texts.items() if text in COMPARED}


@pytest.mark.parametrize(("name", "node"), functions(), ids=[name for name, _ in functions()])
def test_functions(name: str, node: Function) -> None:
    actual = signature(name)
    assert parameters(node) == parameters(actual)
    expected, found = comparable(node), comparable(actual)
    for key in expected.keys() & found.keys():
        assert expected[key] == found[key], key


def test_the_same_names_are_there() -> None:
    names: set[str] = set()
    for node in stub_body():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
            assert type(runtime(node.target.id)).__name__ == ast.unparse(node.annotation)
        elif isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
    assert names == public(_native)


@pytest.mark.parametrize(
    "node", [n for n in stub_body() if isinstance(n, ast.ClassDef)], ids=lambda node: node.name
)
def test_classes_have_the_same_members(node: ast.ClassDef) -> None:
    members = {part.name: part for part in node.body if isinstance(part, Function)}
    named = {name for name in members if not name.startswith("_")}
    assert named == public(runtime(node.name))
    for name in members:
        assert hasattr(runtime(node.name), name)
        if is_property(members[name]):
            assert isinstance(vars(runtime(node.name))[name], property)
