"""Execute notebooks from the top, headless, with a progress bar.

python notebooks/run.py 00_quickstart             writes build/00_quickstart.ipynb and .html, prints its results
python notebooks/run.py --inplace 00 01 02 03     stores fresh outputs in notebooks/ themselves (`make notebooks`)
python notebooks/run.py --inplace --timed 00      stores the seconds taken, too: on two quiet cores, files downloaded
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm.auto import tqdm

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"


def execute(path: Path, bar: tqdm) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bar.reset(total=len(code))
    bar.set_description(path.stem)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda **_: bar.update(),
    )
    client.execute()
    for cell in code:  # progress bars write to stderr
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:  # a widget without its kernel is an empty box: its picture stays
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata.pop("widgets", None)  # breaks rendering on code hosts
    # the kernel of whoever runs it next, not of whoever ran it last
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", help="how the names begin, such as 00")
    parser.add_argument("--inplace", action="store_true", help="store the outputs in the notebooks themselves")
    parser.add_argument("--timed", action="store_true", help="with --inplace, store how many seconds it took")
    arguments = parser.parse_args()
    for bars in (
        "TQDM_DISABLE",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
    ):  # stored outputs hold none
        os.environ.setdefault(bars, "1")
    paths = [path for name in arguments.notebooks for path in sorted(HERE.glob(f"{name}*.ipynb"))]
    if not paths:
        parser.error(f"no notebook begins with {' or '.join(arguments.notebooks)} in {HERE}")
    for path in paths:
        start = time.perf_counter()
        try:
            with tqdm(unit="cell", disable=False) as bar:
                notebook = execute(path, bar)
        except CellExecutionError as error:
            print(f"{path.name} stopped:\n{error}", file=sys.stderr)
            return 1
        seconds = round(time.perf_counter() - start)
        if arguments.inplace:
            if arguments.timed:
                notebook.metadata["seconds"] = seconds
            nbformat.write(notebook, path)
            print(f"{path.stem}: {seconds} s")
            continue
        BUILD.mkdir(exist_ok=True)
        executed, html = BUILD / path.name, BUILD / f"{path.stem}.html"
        nbformat.write(notebook, executed)
        html.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
        for cell in notebook.cells:
            if "result" in cell.metadata.get("tags", []):
                print("\n" + "\n".join(o.data["text/plain"] for o in cell.outputs if "data" in o))
        print(f"\nexecuted in {seconds} s\nnotebook  {executed}\nas a page  {html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
