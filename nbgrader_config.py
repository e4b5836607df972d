"""How nbgrader finds its way in this repository: the assignment is `notebooks`, all that is made goes under build/."""

from pathlib import Path

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
    NbGraderPreprocessor,
    SaveCells,
)


class ClearAnswers(NbGraderPreprocessor):
    """Drop what exercises printed; figures and results of the tutorial stay, for the student to compare with."""

    def preprocess_cell(self, cell, resources, index):
        if "nbgrader" in cell.metadata and cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        return cell, resources


Path("build").mkdir(exist_ok=True)  # for the database
c = get_config()  # noqa: F821, given by nbgrader
c.CourseDirectory.course_id = "wanda"
c.CourseDirectory.source_directory = "."
c.CourseDirectory.release_directory = "build/release"
c.CourseDirectory.submitted_directory = "build/submitted"
c.CourseDirectory.autograded_directory = "build/autograded"
c.CourseDirectory.feedback_directory = "build/feedback"
c.CourseDirectory.db_url = "sqlite:///build/gradebook.db"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "*.py", "student"]
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError()  # your code here"}
c.GenerateAssignment.preprocessors = [
    LockCells,
    ClearSolutions,
    ClearAnswers,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,
    CheckCellMetadata,
]
c.ExecutePreprocessor.timeout = 600
c.Execute.timeout = 600
