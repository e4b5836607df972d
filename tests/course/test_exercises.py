"""Graded exercises: right answers pass, wrong ones are named, students' copies hold no answers, nbgrader marks them."""

import ast
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

from wanda_nb.checks.core import judge

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = ROOT / "notebooks" / "README.md"


def module(path: Path):
    spec = importlib.util.spec_from_file_location(f"exercises_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


student = module(ROOT / "notebooks" / "student.py")
PROOFS = {
    grade_id: proof
    for path in sorted((ROOT / "tests" / "exercises").glob("*.py"))
    for grade_id, proof in module(path).EXERCISES.items()
}


def read(path: Path):
    return nbformat.read(path, as_version=4)


def about(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def parts(book) -> dict[str, dict[str, str]]:
    """{grade id: {"solution": source, "check": source, "graded": source}} in the notebook's order."""
    found = {}
    for cell in book.cells:
        if about(cell):
            name, _, part = about(cell)["grade_id"].partition("-")
            found.setdefault(name, {})[part or "solution"] = cell.source
    return found


EXERCISES = {name: (path, source) for path in NOTEBOOKS for name, source in parts(read(path)).items()}


@pytest.fixture(autouse=True)
def quiet_figures(monkeypatch):
    matplotlib.use("agg")
    yield
    plt.close("all")


def imports(path: Path) -> dict:
    """The names that a notebook imports, for its exercises to use."""
    names: dict = {}
    for cell in read(path).cells:
        if cell.cell_type == "code" and cell.source.startswith(("import ", "from ")) and "find_spec" not in cell.source:
            for node in ast.parse(cell.source).body:
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    exec(compile(ast.Module([node], []), path.name, "exec"), names)
    return names


def test_there_are_twenty_or_more_and_each_has_its_parts():
    assert len(EXERCISES) >= 20
    for name, (path, found) in EXERCISES.items():
        assert set(found) == {"solution", "check", "graded"}, name
        assert name.startswith(f"ex{path.name[:2]}")
        assert found["solution"].count("### BEGIN SOLUTION") == found["solution"].count("### END SOLUTION") >= 1
        called = [re.match(r"(checks\.\w+)\((\w+)", found[part]) for part in ("check", "graded")]
        assert called[0].groups() == called[1].groups() and "graded=True" in found["graded"], name
    assert {path for path, _ in EXERCISES.values()} == set(NOTEBOOKS[1:])


def test_metadata_is_nbgraders_schema_3_and_ids_are_unique():
    ids = Counter()
    for path in NOTEBOOKS:
        for cell in read(path).cells:
            if data := about(cell):
                ids[data["grade_id"]] += 1
                assert data["schema_version"] == 3 and not data["task"]
                assert data["locked"] != data["solution"]
                assert data["grade"] == data["grade_id"].endswith("-graded") == ("points" in data)
                assert data.get("points", 1) >= 1
    assert max(ids.values()) == 1


def test_tasks_say_points_and_minutes_and_the_guide_adds_them_up():
    guide, total = GUIDE.read_text(encoding="utf-8"), 0
    for path in NOTEBOOKS:
        book = read(path)
        stated = {}
        for cell in book.cells:
            for match in re.finditer(
                r"^### Exercise (\d\d)\.(\d) · .*\((\d+) points?, (\d+) minutes(?:, difficulty [123])?\)$",
                cell.source,
                re.M,
            ):
                stated[f"ex{match[1]}{'abcdefg'[int(match[2]) - 1]}"] = int(match[3])
                assert "<details><summary>Hint" in cell.source and 1 <= int(match[4]) <= 60
        marks = {name.removesuffix("-graded"): points for name, points in student.points(book).items()}
        assert stated == marks, path.name
        total += sum(marks.values())
        if marks:
            head = re.search(r"^\*\*Exercises\*\*: (\d), (together|worth) (\d+) points\.", book.cells[1].source, re.M)
            assert (int(head[1]), int(head[3])) == (len(marks), sum(marks.values())), path.name
            row = re.search(rf"^\| *\[?{path.name[:2]}\b.*$", guide, re.M)[0]
            cells = [cell.strip() for cell in row.split("|")]
            assert str(len(marks)) in cells and str(sum(marks.values())) in cells, row
            row = re.search(rf"^\| \[{path.name[:2]} .*$", README, re.M)[0]
            assert [cell.strip() for cell in row.split("|")][4] == str(sum(marks.values())), row
    assert f"{total} points" in guide and f"{total} points" in README


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_minutes_are_those_measured_and_the_same_everywhere(path):
    """The head of the notebook, the README's table and the guide's. On a quiet machine, `run.py --timed` measures."""
    book, number = read(path), path.name[:2]
    head = r"^\*\*Time\*\*: (\d+) minutes to read and try(?:, and (\d+) for the exercises?)?; .*$"
    stated = re.search(head, book.cells[1].source, re.M)
    computed = re.search(r"compute for about (a minute|\w+ minutes) on two CPU cores", stated[0])[1]
    computed = ["a minute", "two minutes", "three minutes", "four minutes"].index(computed) + 1
    assert computed == max(1, round(book.metadata["seconds"] / 60)), book.metadata["seconds"]
    row = [cell.strip() for cell in re.search(rf"^\| \[{number} .*$", README, re.M)[0].split("|")]
    assert row[3] == f"{stated[1]} · {computed}", row
    guide = GUIDE.read_text(encoding="utf-8")
    row = [cell.strip() for cell in re.search(rf"^\| {number} .*$", guide, re.M)[0].split("|")]
    assert row[4:6] == [stated[2] or "–", str(computed)], row


def test_the_hours_are_the_sums_of_the_minutes():
    reading = [int(minutes) for minutes in re.findall(r"^\| \[\d\d .* \| (\d+) · \d+ \|", README, re.M)]
    guide = GUIDE.read_text(encoding="utf-8")
    exercises = [int(minutes) for minutes in re.findall(r"^\| \d\d .* \| (\d+) \| \d+ \|$", guide, re.M)]
    assert len(reading) == len(NOTEBOOKS) == len(exercises) + 1
    for text in (README, guide):
        for minutes in (sum(reading), sum(exercises)):
            assert f"about {round(minutes / 30) / 2:g} hours" in text


def test_reference_solutions_got_full_marks_when_their_notebook_ran():
    """nbval runs these cells and compares what they print, if nothing tells it not to."""
    for path in NOTEBOOKS:
        for cell in read(path).cells:
            name, _, part = about(cell).get("grade_id", "").partition("-")
            if part:
                number = f"{name[2:4]}.{'abcdefg'.index(name[4]) + 1}"
                line = f"✓ {number}{' graded' if part == 'graded' else ''}: "
                assert [output.name for output in cell.outputs] == ["stdout"], name
                assert cell.outputs[0].text.startswith(line) and cell.outputs[0].text.count("\n") == 1
                assert not cell.metadata.get("tags") and "NBVAL" not in cell.source.upper(), name


@pytest.mark.parametrize("name", [name for name in EXERCISES if name != "ex09c"])  # minutes, and nbval runs it
def test_the_reference_solution_gets_full_marks_with_nothing_but_its_imports(name, capsys):
    path, found = EXERCISES[name]
    names = imports(path)
    for part in ("solution", "check", "graded"):
        exec(found[part], names)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("✓ ") for line in lines)


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_not_begun_says_so_and_no_more(name):
    path, _ = EXERCISES[name]
    found = parts(student.student_copy(read(path)))[name]
    assert "SOLUTION" not in found["solution"] and student.STUB in found["solution"]
    names = imports(path)
    exec(found["solution"], names)  # defines, and runs nothing
    for part in ("check", "graded"):
        with pytest.raises(NotImplementedError) as raised:
            exec(compile(found[part], "cell", "exec"), names)
        assert raised.traceback[-1].path == "<string>" or "NotImplementedError" in str(raised.traceback[-1].statement)


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_of_other_kinds_pass(name):
    assert len(PROOFS[name]["right"]) >= 2
    for answer in PROOFS[name]["right"]:
        PROOFS[name]["check"](answer)
        PROOFS[name]["check"](answer, graded=True)


@pytest.mark.parametrize("name", EXERCISES)
def test_typical_wrong_answers_are_caught_and_named(name):
    assert len(PROOFS[name]["wrong"]) >= 3
    for answer, message in PROOFS[name]["wrong"]:
        with pytest.raises(AssertionError, match=re.escape(message)):
            PROOFS[name]["check"](answer)
            PROOFS[name]["check"](answer, graded=True)
        with pytest.raises(AssertionError):  # whoever ignores the check gets no points
            PROOFS[name]["check"](answer, graded=True)


@pytest.mark.parametrize("name", ["ex02a", "ex02b", "ex08a", "ex09b", "ex10a", "ex12a"])
def test_wrong_answers_are_refused_by_an_optimising_interpreter(name):
    """``python -O`` drops assert statements; grading must not depend on it."""
    check = PROOFS[name]["check"]
    path = Path(inspect.getsourcefile(check))
    names = {"__name__": check.__module__, "__package__": "wanda_nb.checks"}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec", optimize=2), names)
    for answer, _ in PROOFS[name]["wrong"]:
        with pytest.raises(AssertionError):
            names[check.__name__](answer, graded=True)


def test_checks_need_no_figures():
    ask = "import sys, wanda_nb.checks; print({'matplotlib', 'IPython'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_no_check_and_no_graded_cell_is_an_assert_statement():
    cells = {f"{name}-{part}": source for name, (_, found) in EXERCISES.items() for part, source in found.items()}
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "wanda_nb" / "checks").glob("*.py")}
    assert len(files) >= 11
    for name, source in {**cells, **files}.items():
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source))), name


def test_a_wrong_mask_is_named_where_there_is_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    answer, message = next(iter(PROOFS["ex02b"]["wrong"]))
    with pytest.raises(AssertionError, match=re.escape(message)):
        PROOFS["ex02b"]["check"](answer)


def test_a_wrong_mask_is_told_how_many_it_removes_only_if_that_is_wrong():
    right = torch.tensor([[True, False, False, True]])
    for got, told in ((right.roll(1), False), (right.roll(1) | right, True)):
        with pytest.raises(AssertionError, match="weights differ") as said:
            judge(lambda got=got: got, [()], lambda: right, {})
        assert ("You removed" in str(said.value)) == told


def test_nothing_else_in_a_notebook_uses_the_students_answers():
    """So that the rest of a student's copy runs, whatever is done or left undone."""
    for path in NOTEBOOKS:
        cells = [
            cell for cell in read(path).cells if cell.cell_type == "code" and not cell.source.lstrip().startswith("%")
        ]
        defined = set()
        for cell in cells:
            if about(cell).get("solution"):
                defined |= {node.name for node in ast.parse(cell.source).body if hasattr(node, "name")}
        for cell in cells:
            if not about(cell) and "%pip" not in cell.source:
                used = {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
                assert not used & defined, (path.name, cell.source)


def test_students_copies_keep_the_figures_and_lose_the_answers():
    for path in NOTEBOOKS:
        book = read(path)
        answered = [cell.source for cell in book.cells if about(cell).get("solution")]
        solutions = [found[0] for source in answered for found in student.REGION.finditer(source)]
        images = str(book).count("image/png")
        copy = student.student_copy(read(path))
        assert str(copy).count("image/png") == images >= 2
        text = "\n".join(cell.source for cell in copy.cells)
        for solution in solutions:
            body = [line for line in solution.splitlines()[1:-1] if line.strip()]
            assert "\n".join(body) not in text
        assert not any(cell.outputs for cell in copy.cells if about(cell) and cell.cell_type == "code")


def test_what_a_student_opens_is_unanswered_and_up_to_date():
    """If it fails: make student."""
    stored = {path.name: read(path) for path in student.COPIES.glob("*.ipynb")}
    assert stored == {path.name: student.unopened(path) for path in NOTEBOOKS}
    for name, copy in stored.items():
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in copy.cells), name
        assert "### BEGIN SOLUTION" not in str(copy) and f"[solved](../{name})" in copy.cells[0].source
        for cell in (cell for cell in copy.cells if cell.cell_type == "markdown"):
            for link in re.findall(r"\]\((?!https?:|#|attachment:)([^)#]+)", cell.source):
                assert (student.COPIES / link).exists(), (name, link)


def test_badges_and_the_readme_open_the_students_copies():
    for path in NOTEBOOKS:
        first = read(path).cells[0].source
        hosted = re.findall(r"/blob/main/(notebooks/[^)]*)\)", first)
        assert len(hosted) == 2 and set(hosted) == {f"notebooks/student/{path.name}"}
        assert f"[for students](student/{path.name})" in first
        assert f"](notebooks/student/{path.name})" in README and f"/blob/main/notebooks/student/{path.name})" in README
    table = [line for line in README.splitlines() if line.startswith("| [")]
    assert not re.search(r"notebooks/\d\d_", "\n".join(table)), "a solved notebook"


# ---- nbgrader itself, on the exercises of three notebooks without the tutorial around them

CHOSEN = ("02", "04", "08")


def nbgrader(course: Path, *words: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["nbgrader", *words], cwd=course, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    pytest.importorskip("nbgrader")
    course = tmp_path_factory.mktemp("course")
    shutil.copy(ROOT / "nbgrader_config.py", course)
    (course / "notebooks").mkdir()
    for path in NOTEBOOKS:
        if path.name[:2] in CHOSEN:
            book = read(path)
            book.cells = [
                c for c in book.cells if about(c) or (c.cell_type == "code" and c.source.startswith("import "))
            ]
            book.cells = [cell for cell in book.cells if "find_spec" not in cell.source]
            nbformat.write(book, course / "notebooks" / path.name)
    nbgrader(course, "generate_assignment", "notebooks")
    return course


def test_nbgrader_writes_the_same_copies(course):
    for path in (course / "build" / "release" / "notebooks").glob("*.ipynb"):
        ours = student.student_copy(read(course / "notebooks" / path.name))
        assert [cell.source for cell in read(path).cells] == [cell.source for cell in ours.cells]


def test_three_submissions_get_the_marks_they_deserve(course):
    release = course / "build" / "release" / "notebooks"
    deserved: dict[str, dict[str, int]] = {"perfect": {}, "half": {}, "empty": {}}
    for path in sorted(release.glob("*.ipynb")):
        source, marks = read(course / "notebooks" / path.name), student.points(read(path))
        done = list(parts(source))[::2]  # every other exercise
        for name in deserved:
            copy = read(path)
            for cell, answer in zip(copy.cells, source.cells, strict=True):
                if about(cell).get("solution") and (
                    name == "perfect" or (name == "half" and about(cell)["grade_id"] in done)
                ):
                    cell.source = answer.source
            folder = course / "build" / "submitted" / name / "notebooks"
            folder.mkdir(parents=True, exist_ok=True)
            nbformat.write(copy, folder / path.name)
        deserved["perfect"][path.stem] = sum(marks.values())
        deserved["half"][path.stem] = sum(points for ex, points in marks.items() if ex.partition("-")[0] in done)
        deserved["empty"][path.stem] = 0
    nbgrader(course, "autograde", "notebooks")
    nbgrader(course, "generate_feedback", "notebooks")
    nbgrader(course, "export")

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/build/gradebook.db", "wanda") as book:
        for name, marks in deserved.items():
            got = {one.name: one.score for one in book.find_submission("notebooks", name).notebooks}
            assert got == marks, name
            assert (course / "build" / "feedback" / name / "notebooks").is_dir()
    assert sum(deserved["perfect"].values()) > sum(deserved["half"].values()) > 0
    assert "perfect" in (course / "grades.csv").read_text()
