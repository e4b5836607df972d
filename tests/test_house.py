"""The house keeps its shape: arrows one way, the method on one floor and small, no module over 250 lines."""

import ast
import subprocess
import sys

import pytest
from imports import PACKAGE, arrows, levels, picture

METHOD = "blocks", "capture", "scores", "masks", "updates", "methods", "allocation", "pruning"


def test_no_arrow_goes_back_up():
    rooms = levels(arrows())
    order = {name: number for number, level in enumerate(rooms) for name in level}
    assert order["__main__"] == len(rooms) - 1  # nothing imports the command line
    levels(arrows(by_room=False))  # nor do files of one room go in a circle


def test_contributing_shows_the_picture():
    """`python tests/imports.py` prints it."""
    assert f"```\n{picture()}\n```" in (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_circle_is_found():
    with pytest.raises(ValueError, match="a, b"):
        levels({"a": {"b"}, "b": {"a"}, "c": set()})


def test_nothing_of_the_package_imports_the_course():
    course = {"checks", "plots"}
    assert not [name for name, targets in arrows().items() if name not in course and targets & course]


def lines(path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_small_is_a_feature():
    assert sum(lines(PACKAGE / f"{name}.py") for name in METHOD) <= 1200
    assert not [path.name for path in PACKAGE.rglob("*.py") if lines(path) > 250]


def test_no_private_name_of_one_module_is_used_in_another():
    found = []
    for folder in (PACKAGE, PACKAGE.parent / "data", PACKAGE.parent / "tests"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("wanda_nb")):
                    found += [
                        f"{path.name}: {a.name}" for a in node.names if a.name.startswith("_") and a.name != "__main__"
                    ]
    assert not found


def loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_grading_loads_no_plots():
    modules = loaded("from wanda_nb import checks")
    assert "wanda_nb.checks" in modules and not {"matplotlib", "IPython"} & modules


def test_the_package_loads_nothing_that_only_some_need():
    assert not {"peft", "lm_eval", "datasets", "matplotlib", "nbclient"} & loaded("import wanda_nb")
