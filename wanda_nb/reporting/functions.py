"""What tells one score function from another: its code, and the values of all that it refers to."""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import sys
import sysconfig
import types
from pathlib import Path

import numpy as np
import torch

from .identity import tensor_bytes

#: Builtins whose answer depends on more than what a function refers to.
OPAQUE = {"__import__", "compile", "eval", "exec", "globals", "input", "locals", "open", "vars"}
PLAIN = {int, float, complex, bool, str, bytes, range, type(None), type(...), torch.dtype, torch.device}
CODE = ("code", "names", "varnames", "freevars", "cellvars", "argcount", "posonlyargcount", "kwonlyargcount", "flags")


class Unidentified(ValueError):
    """Raised for a function of which nobody can say for certain whether it is the one of another day."""


def function_identity(function) -> str:
    """A sha256 over a function's code, its defaults and closure, and the globals that it uses: 64 hexadecimal digits.

    Numbers, strings, tensors, arrays and containers of them count by value, functions and partials by their own
    identity, what an installed package holds by name and version. Raises Unidentified for anything else, such as an
    object of a class of your own, whose code may have changed unseen.
    """
    return hashlib.sha256(_part(function, {}).encode()).hexdigest()


def _part(thing, seen: dict[int, int]) -> str:
    """A thing as text that differs where the thing does. seen: functions met so far, which may call themselves."""
    kind: type = type(thing)
    if kind in PLAIN or isinstance(thing, np.generic):
        return f"{kind.__name__} {thing!r}"
    if name := _installed(thing):
        return name
    if kind in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
        return f"tensor {thing.dtype} {tuple(thing.shape)} {hashlib.sha256(tensor_bytes(thing)).hexdigest()}"
    if kind is np.ndarray and not thing.dtype.hasobject:
        return f"array {thing.dtype.str} {thing.shape} {hashlib.sha256(thing.tobytes()).hexdigest()}"
    if kind in (tuple, list):
        return f"{kind.__name__} [{', '.join(_part(one, seen) for one in thing)}]"
    if kind in (set, frozenset):
        return f"{kind.__name__} [{', '.join(sorted(_part(one, seen) for one in thing))}]"
    if kind is dict:
        return f"dict {_part(list(thing.items()), seen)}"
    if kind is functools.partial:
        return f"partial {_part([thing.func, thing.args, thing.keywords], seen)}"
    if kind is types.MethodType:
        return f"method {_part([thing.__func__, thing.__self__], seen)}"
    if kind is types.CodeType:
        return f"code {[getattr(thing, 'co_' + name) for name in CODE]} {_part(thing.co_consts, seen)}"
    if kind is types.FunctionType:
        return _function(thing, seen)
    raise Unidentified(f"it uses {_words(thing)}, which may have changed unseen")


def _function(function: types.FunctionType, seen: dict[int, int]) -> str:
    if id(function) in seen:
        return f"function {seen[id(function)]}"
    seen[id(function)] = len(seen)
    code = function.__code__
    try:
        closure = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        raise Unidentified(f"{function.__qualname__} uses a variable that has no value yet") from None
    return (
        f"function {_part([code, function.__defaults__, function.__kwdefaults__, closure, _outside(function)], seen)}"
    )


def _outside(function: types.FunctionType) -> dict:
    """The globals that a function uses, by name. Raises Unidentified for builtins that reach further."""
    found: dict = {}
    for step in _steps(function.__code__):
        name = step.argval
        if step.opname == "IMPORT_NAME":
            found[f"import {name}"] = sys.modules.get(name)
            if found[f"import {name}"] is None:
                raise Unidentified(f"it imports {name} when it is called: import it before")
        elif "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
            if name in function.__globals__:
                found[name] = function.__globals__[name]
            elif name in OPAQUE or not hasattr(builtins, name):
                raise Unidentified(f"it uses {name}, which may give another answer another day")
    return dict(sorted(found.items()))


def _steps(code: types.CodeType):
    """The instructions of a function, and of functions inside it."""
    yield from dis.get_instructions(code)
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from _steps(one)


def _installed(thing) -> str | None:
    """What an installed package or Python itself holds under this name, and the package's version; None for others."""
    if isinstance(thing, types.ModuleType):
        return _package(thing.__name__)
    where, names = (
        getattr(thing, "__module__", None),
        {getattr(thing, key, None) for key in ("__qualname__", "__name__")},
    )
    for name in sorted(name for name in names if isinstance(name, str)):
        found = sys.modules.get(where) if isinstance(where, str) else None
        for step in name.split("."):
            found = getattr(found, step, None)
        if found is thing and not (where == "builtins" and name in OPAQUE) and (package := _package(where)):
            return f"{package} {name}"
    return None


def _package(module: str) -> str | None:
    origin = getattr(getattr(sys.modules.get(module), "__spec__", None), "origin", None)
    paths = sysconfig.get_paths()
    roots = [Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    if origin in ("built-in", "frozen") or (origin and any(Path(origin).resolve().is_relative_to(r) for r in roots)):
        version = getattr(sys.modules.get(module.partition(".")[0]), "__version__", "")
        return f"module {module} {version}"
    return None


def _words(thing) -> str:
    if isinstance(thing, types.ModuleType):
        return f"the module {thing.__name__}"
    return getattr(thing, "__qualname__", None) or f"an object of the class {type(thing).__qualname__}"
