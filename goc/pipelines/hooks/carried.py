"""Which arguments a block's outputs go on from: by the names that its forward returns."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

HIDDEN, ENCODER = "hidden_states", "encoder_hidden_states"  # as diffusers names arguments

Order = tuple[int | None, ...]


@dataclass(frozen=True)
class Carried:
    """What goes through a block.

    names: the arguments that its outputs go on from, as its forward lists them. orders: for each number of outputs,
    which of `names` each goes on from, None = none of them; a number that is missing is told by shapes.
    """

    names: tuple[str, ...]
    orders: Mapping[int, Order]


def arguments_of(module: nn.Module) -> list[str]:
    """Names of the arguments of a module's class's forward."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def argument(name: str, position: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An argument of a call by its name and position; None if it was not given."""
    return kwargs.get(name, args[position] if position < len(args) else None)


def carried_of(block: nn.Module) -> Carried:
    """What goes through a block.

    `return encoder_hidden_states, hidden_states` says it all. Without any argument's name (`return x + y, z`), or
    without source, diffusers' usual names are taken.
    """
    known = arguments_of(block)
    returned = [tuple(name if name in known else None for name in names) for names in returned_names(block)]
    said = {len(names): names for names in returned if any(names)}
    used = {name for names in said.values() for name in names if name}
    if not used:
        used = {HIDDEN if HIDDEN in known else known[0]} | ({ENCODER} & set(known))
    names = tuple(name for name in known if name in used)
    orders = {
        count: tuple(None if name is None else names.index(name) for name in order) for count, order in said.items()
    }
    return Carried(names, orders)


def returned_names(block: nn.Module) -> list[list[str | None]]:
    """What a block's forward may return, each time: names, None where something is no name."""
    returned: list[list[str | None]] = []
    for value in _returned(type(block).forward):
        if isinstance(value, ast.Name | ast.Tuple):
            elements = [value] if isinstance(value, ast.Name) else value.elts
            returned.append([element.id if isinstance(element, ast.Name) else None for element in elements])
        elif isinstance(value, ast.Call) and (inner := _called(block, value.func)) is not None:
            # a block that only calls another
            outer = {word.arg: word.value.id for word in value.keywords if isinstance(word.value, ast.Name)}
            outer |= {
                name: node.id
                for name, node in zip(arguments_of(inner), value.args, strict=False)
                if isinstance(node, ast.Name)
            }
            returned += [[outer.get(name) if name else None for name in names] for names in returned_names(inner)]
    return returned


def _called(block: nn.Module, function: ast.expr) -> nn.Module | None:
    """The module of a block that is called as self.name(...)."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self":
        inner = getattr(block, function.attr, None)
        return inner if isinstance(inner, nn.Module) else None
    return None


@functools.cache
def _returned(forward: Callable[..., Any]) -> tuple[ast.expr, ...]:
    """What a class's forward may return."""
    try:
        source = inspect.getsource(inspect.unwrap(forward))
    except (OSError, TypeError):
        return ()
    (function,) = ast.parse(textwrap.dedent(source)).body
    returns, waiting = [], list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Return) and node.value is not None:
            returns.append(node.value)
        elif not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return tuple(returns)
