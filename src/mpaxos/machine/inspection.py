"""The inspection of a state machine class before it serves.

A class is inspected once. Whatever is wrong with it is a ConfigError that names class and method
and says what to do, before any client is connected.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from mpaxos.errors import ConfigError
from mpaxos.machine.codec import (
    KeyCodec,
    ValueCodec,
    key_codec,
    packed_codec,
    stored_codec,
    type_text,
)
from mpaxos.machine.containers import Dict, Set, Value
from mpaxos.machine.declaration import ContainerSpec, Declaration, Method
from mpaxos.machine.declare import COMMAND, MARK, StateMachine

_INSPECTED = "__mpaxos_declaration__"

MAX_CONTAINERS = 64
MAX_NAME = 63

_RESERVED = frozenset({"client", "close", "context", "execute", "invoke", "native", "read"}) | {
    "submit",
    "with_deadline",
}
"""Names that the base class or the clients' proxies use themselves."""


def inspect_machine(machine: type[StateMachine]) -> Declaration:
    """Inspect a state machine class, once. Raises ConfigError naming what is wrong with it."""
    known = vars(machine).get(_INSPECTED) if isinstance(machine, type) else None
    if not isinstance(known, Declaration):
        known = _inspect(machine)
        setattr(machine, _INSPECTED, known)
    return known


def _inspect(machine: type[StateMachine]) -> Declaration:
    if not (isinstance(machine, type) and issubclass(machine, StateMachine)):
        raise ConfigError(f"{machine!r} is not a state machine: derive a class from StateMachine")
    where = machine.__name__
    if machine is StateMachine:
        raise ConfigError("StateMachine itself does nothing: derive a class from it")
    for forbidden in ("__init__", "__new__", "__setattr__", "__slots__"):
        if any(forbidden in vars(base) for base in _user_bases(machine)):
            raise ConfigError(
                f"{where}.{forbidden}: a state machine has no construction of its own, its state "
                "is in annotated containers and begins empty; remove it"
            )
    methods = _methods(machine)
    executes = machine.execute is not StateMachine.execute
    if executes and methods:
        raise ConfigError(
            f"{where} overrides execute() and has @{methods[0].kind} {methods[0].name}: choose one"
        )
    if not executes and machine.read is not StateMachine.read:
        raise ConfigError(f"{where} overrides read() without execute(): add it, or use @query")
    for name in ("execute", "read"):
        if inspect.iscoroutinefunction(getattr(machine, name)):
            raise ConfigError(f"{where}.{name} is async: commands run to their end, use `def`")
    if not executes and not any(method.kind == COMMAND for method in methods):
        raise ConfigError(f"{where} has no @command: decorate a method, or override execute()")
    return Declaration(machine, _containers(machine), methods)


def _user_bases(machine: type) -> list[type]:
    """The class and its bases below StateMachine, the most basic first."""
    return [b for b in reversed(machine.__mro__) if b not in (object, StateMachine)]


def _hints(where: str, thing: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a class or function as types."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"{where}: an annotation cannot be resolved: {error}; types used in it must be defined "
            "at the top of their module"
        ) from error


# ------------------------------------------------------------------ containers


def _containers(machine: type[StateMachine]) -> tuple[ContainerSpec, ...]:
    hints = _hints(machine.__name__, machine)
    names = [name for base in _user_bases(machine) for name in inspect.get_annotations(base)]
    specs = []
    for name in dict.fromkeys(names):
        hint = hints[name]
        if typing.get_origin(hint) is ClassVar or hint is ClassVar:
            continue
        specs.append(_container(machine, name, hint))
    if len(specs) > MAX_CONTAINERS:
        raise ConfigError(f"{machine.__name__} has {len(specs)} containers; {MAX_CONTAINERS} fit")
    return tuple(specs)


def _container(machine: type[StateMachine], name: str, hint: object) -> ContainerSpec:
    where = f"{machine.__name__}.{name}"
    if name in _RESERVED:
        raise ConfigError(f"{where}: this name is taken by mpaxos itself; choose another")
    if hasattr(machine, name):
        raise ConfigError(
            f"{where} is a container and has a value: only annotate it, `{name}: ...`"
        )
    if len(name.encode()) > MAX_NAME:
        raise ConfigError(f"{where}: names of containers are at most {MAX_NAME} bytes")
    origin, elements = typing.get_origin(hint), typing.get_args(hint)
    for kind, example in ((Dict, "Dict[str, int]"), (Set, "Set[str]"), (Value, "Value[int]")):
        if hint is kind:
            raise ConfigError(f"{where}: say what is in it, for example `{name}: {example}`")
    try:
        if origin is Dict:
            return _dict(name, key_codec(elements[0]), stored_codec(elements[1]))
        if origin is Set:
            keys = key_codec(elements[0])
            return ContainerSpec(name, f"Set[{keys.text}]", lambda table: Set[Any](table, keys))
        if origin is Value:
            values = stored_codec(elements[0])
            return ContainerSpec(
                name, f"Value[{values.text}]", lambda table: Value[Any](table, values)
            )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    raise ConfigError(
        f"{where} is no container of mpaxos.containers: use Dict, Set or Value (a single value), "
        "or ClassVar for a constant"
    )


def _dict(name: str, keys: KeyCodec, values: ValueCodec) -> ContainerSpec:
    return ContainerSpec(
        name, f"Dict[{keys.text}, {values.text}]", lambda table: Dict[Any, Any](table, keys, values)
    )


# ------------------------------------------------------------------ methods


def _methods(machine: type[StateMachine]) -> tuple[Method, ...]:
    found: dict[str, str] = {}
    for base in _user_bases(machine):
        for name, member in vars(base).items():
            kind = _kind(member)
            if kind is None and name in found:
                raise ConfigError(
                    f"{base.__name__}.{name} replaces a @{found[name]} without being one: decorate "
                    "it too"
                )
            if kind is not None:
                found[name] = kind
    return tuple(_method(machine, name, kind) for name, kind in found.items())


def _kind(member: object) -> str | None:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    kind = getattr(member, MARK, None)
    return kind if isinstance(kind, str) else None


def _function(machine: type[StateMachine], name: str, kind: str) -> Callable[..., Any]:
    where = f"{machine.__name__}.{name}"
    function: Callable[..., Any] = inspect.getattr_static(machine, name)
    if not inspect.isfunction(function):
        raise ConfigError(f"{where}: @{kind} belongs on a plain method with `self`")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{where} is async: a {kind} runs to its end without waiting, use `def`")
    if inspect.isgeneratorfunction(function):
        raise ConfigError(f"{where} is a generator: return a list instead of using yield")
    if name in _RESERVED or name.startswith("_"):
        raise ConfigError(f"{where}: a {kind} cannot have this name; choose another")
    return function


def _method(machine: type[StateMachine], name: str, kind: str) -> Method:
    where = f"{machine.__name__}.{name}"
    function = _function(machine, name, kind)
    hints = _hints(where, function)
    if "return" not in hints:
        raise ConfigError(f"{where}: annotate what it returns (`-> None` if nothing)")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise ConfigError(f"{where}: its first parameter must be `self`")
    fields = [_field(where, p, hints) for p in parameters[1:]]
    # Named by position: parameters may have names that fields may not.
    arguments = msgspec.defstruct(
        name,
        [(f"a{i}", hint) for i, hint in enumerate(fields)],
        array_like=True,
        tag=name,
        forbid_unknown_fields=True,
    )
    try:
        result = packed_codec(hints["return"])
    except ConfigError as error:
        raise ConfigError(f"{where}: what it returns: {error}") from error
    types = ", ".join(
        f"{p.name}: {type_text(h)}" for p, h in zip(parameters[1:], fields, strict=True)
    )
    return Method(
        name=name,
        kind=kind,
        signature=signature.replace(parameters=parameters[1:]),
        parameters=tuple(p.name for p in parameters[1:]),
        arguments=arguments,
        result=result,
        function=function,
        text=f"{kind} {name}({types}) -> {result.text}",
    )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _field(where: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    name = parameter.name
    if parameter.kind not in _POSITIONAL:
        raise ConfigError(
            f"{where}: parameter {name} is not positional: take a list or a dictionary instead of "
            "*args or **kwargs, and make keyword-only parameters ordinary ones"
        )
    if name not in hints:
        raise ConfigError(f"{where}: annotate the type of parameter {name}")
    try:
        codec = packed_codec(hints[name])
        if parameter.default is not inspect.Parameter.empty:
            codec.encode(parameter.default)
    except ConfigError as error:
        raise ConfigError(f"{where}: parameter {name}: {error}") from error
    except (TypeError, OverflowError) as error:
        raise ConfigError(f"{where}: the default of parameter {name}: {error}") from error
    return hints[name]
