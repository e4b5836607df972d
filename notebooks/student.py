"""Write the students' copies without nbgrader: solutions out, figures and explanations left in.

python notebooks/student.py                writes build/student/*.ipynb and prints the exercises with their points

The copies are those of `nbgrader generate_assignment notebooks`, but for checksums; nothing is graded, the checks are.
"""

import re
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
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


def points(notebook: nbformat.NotebookNode) -> dict[str, int]:
    """{grade id: points} of the graded cells."""
    graded = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    return {about["grade_id"]: about["points"] for about in graded if about["grade"]}


def main() -> None:
    folder = HERE.parent / "build" / "student"
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        found = points(notebook)
        total += sum(found.values())
        nbformat.write(student_copy(notebook), folder / path.name)
        print(f"{path.stem:30} {len(found)} exercises, {sum(found.values()):2} points")
    print(f"{total} points in all; copies in {folder}")


if __name__ == "__main__":
    main()
