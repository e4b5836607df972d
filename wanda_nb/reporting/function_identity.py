"""The identity of a score function: its code, and the values of everything that it refers to."""

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

#: Builtins whose result depends on more than what a function refers to.
OPAQUE = {"__import__", "compile", "eval", "exec", "globals", "input", "locals", "open", "vars"}
PLAIN = {int, float, complex, bool, str, bytes, range, type(None), type(...), torch.dtype, torch.device}
CODE = ("code", "names", "varnames", "freevars", "cellvars", "argcount", "posonlyargcount", "kwonlyargcount", "flags")


class Unidentified(ValueError):
    """Raised for a function that cannot be recognised with certainty in a later run."""


def function_identity(function) -> str:
    """A sha256 over a function's code, defaults and closure, and the globals that it uses: 64 hexadecimal digits.

    Numbers, strings, tensors, arrays and containers of them count by value; functions and partials by their own
    identity; what an installed package defines by its name and the package's version. Raises Unidentified for anything
    else, such as an object of your own class, whose code may have changed without notice.
    """
    return hashlib.sha256(_part(function, {}).encode()).hexdigest()


def _part(thing, seen: dict[int, int]) -> str:
    """A text that differs where the thing does. seen: functions met so far, since functions may call themselves."""
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
        return f"{kind.__name__} [{', '.join(_part(item, seen) for item in thing)}]"
    if kind in (set, frozenset):
        return f"{kind.__name__} [{', '.join(sorted(_part(item, seen) for item in thing))}]"
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
    raise Unidentified(f"it uses {_words(thing)}, which may have changed without notice")


def _function(function: types.FunctionType, seen: dict[int, int]) -> str:
    if id(function) in seen:
        return f"function {seen[id(function)]}"
    seen[id(function)] = len(seen)
    code = function.__code__
    try:
        closure = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        raise Unidentified(f"{function.__qualname__} uses a variable that has no value yet") from None
    parts = [code, function.__defaults__, function.__kwdefaults__, closure, _globals_used(function)]
    return f"function {_part(parts, seen)}"


def _globals_used(function: types.FunctionType) -> dict:
    """The globals that a function uses, by name. Raises Unidentified for names whose value may change."""
    values: dict = {}
    for instruction in _instructions(function.__code__):
        name = instruction.argval
        if instruction.opname == "IMPORT_NAME":
            values[f"import {name}"] = sys.modules.get(name)
            if values[f"import {name}"] is None:
                raise Unidentified(f"it imports {name} when it is called: import it beforehand")
        elif "GLOBAL" in instruction.opname or instruction.opname == "LOAD_NAME":
            if name in function.__globals__:
                values[name] = function.__globals__[name]
            elif name in OPAQUE or not hasattr(builtins, name):
                raise Unidentified(f"it uses {name}, which may give another result in another run")
    return dict(sorted(values.items()))


def _instructions(code: types.CodeType):
    """The instructions of a function, and of the functions defined in it."""
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _installed(thing) -> str | None:
    """The name and version of something that an installed package or Python itself defines; None for anything else."""
    if isinstance(thing, types.ModuleType):
        return _package(thing.__name__)
    module = getattr(thing, "__module__", None)
    names = {getattr(thing, key, None) for key in ("__qualname__", "__name__")}
    for name in sorted(name for name in names if isinstance(name, str)):
        value = sys.modules.get(module) if isinstance(module, str) else None
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is thing and not (module == "builtins" and name in OPAQUE) and (package := _package(module)):
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
