"""The rooms of wanda_nb by import level: `python tests/imports.py`. A room imports only rooms above it in this list."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "wanda_nb"


def imports(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, as paths of names, wherever in the file it does."""
    room = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = room[: len(room) - node.level + 1] + tuple((node.module or "").split(".") if node.module else ())
            names = [(*base, alias.name) for alias in node.names]
            found |= {name if is_module(name) else base for name in names}
    return found


def is_module(name: tuple[str, ...]) -> bool:
    """Whether a path of names is a module or a folder of the package, rather than something inside a module."""
    return PACKAGE.joinpath(*name).with_suffix(".py").is_file() or PACKAGE.joinpath(*name).is_dir()


def arrows(by_room: bool = True) -> dict[str, set[str]]:
    """What imports what: files, or rooms (a folder, or a file that lies in none)."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts
        if name == ("__init__",):
            continue  # the front door: it opens on every room
        short = (lambda parts: parts[0]) if by_room else (lambda parts: ".".join(parts))
        found.setdefault(short(name), set()).update(short(target) for target in imports(path) if target)
    return {name: targets - {name} for name, targets in found.items()}


def levels(graph: dict[str, set[str]]) -> list[list[str]]:
    """The names by level, each level importing only those before it. Raises ValueError, naming them, for a circle."""
    below: list[list[str]] = []
    left = dict(graph)
    while left:
        placed = {name for level in below for name in level}
        level = sorted(name for name, targets in left.items() if targets <= placed)
        if not level:
            raise ValueError(f"These import one another in a circle: {', '.join(sorted(left))}.")
        below.append(level)
        left = {name: targets for name, targets in left.items() if name not in level}
    return below


def picture() -> str:
    """The rooms, a line for each level; CONTRIBUTING.md shows it."""
    return "\n".join(f"{number} {'  '.join(level)}" for number, level in enumerate(levels(arrows())))


if __name__ == "__main__":
    print(picture())
