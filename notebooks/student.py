"""Write the students' copies, in notebooks/student: solutions and all outputs out.

python notebooks/student.py                (`make student`) writes the copies and prints the exercises with their points

In a copy nothing has run yet, so no stored result stands below a prediction. Its cells are those of `nbgrader
generate_assignment notebooks`, but for checksums; nothing is graded, the checks are. It links the solved notebook.
"""

import re
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
COPIES = HERE / "student"
STUB = "raise NotImplementedError()  # your code here"
REGION = re.compile(r"^( *)### BEGIN SOLUTION$.*?^ *### END SOLUTION$", re.MULTILINE | re.DOTALL)


def student_copy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with a stub for each solution, and without what its exercises printed; changed in place."""
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader")
        if about is None:
            continue
        if about["solution"]:
            cell.source = REGION.sub(rf"\1{STUB}", cell.source)
        cell.metadata.update(deletable=False, editable=not about["locked"])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def unopened(path: Path) -> nbformat.NotebookNode:
    """What a student opens: the student's copy of a notebook before any cell has run, its links as from COPIES."""
    notebook = student_copy(nbformat.read(path, as_version=4))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = cell.source.replace("](../", "](../../")
    notebook.metadata.pop("seconds", None)
    links = notebook.cells[0]
    links.source = links.source.replace(f"[for students](student/{path.name})", f"[solved](../{path.name})")
    return notebook


def points(notebook: nbformat.NotebookNode) -> dict[str, int]:
    """{grade id: points} of the graded cells."""
    graded = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    return {about["grade_id"]: about["points"] for about in graded if about["grade"]}


def main() -> None:
    COPIES.mkdir(exist_ok=True)
    for old in COPIES.glob("*.ipynb"):
        old.unlink()
    total = 0
    for path in sorted(HERE.glob("*.ipynb")):
        found = points(nbformat.read(path, as_version=4))
        total += sum(found.values())
        nbformat.write(unopened(path), COPIES / path.name)
        print(f"{path.stem:30} {len(found)} exercises, {sum(found.values()):2} points")
    print(f"{total} points in all; copies in {COPIES.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
