"""JupyterLab as a reader meets it: a browser opens notebook 00, runs all of it, and sees the table and the figures;
and it turns a knob of the explorer and one of the slider.

Skipped where there is no browser. What it saw is kept as build/jupyterlab.png.
"""

import contextlib
import json
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = "00_quickstart.ipynb"
EXPLORER = """
import pandas as pd
import torch
from wanda_nb import plots

plots.style()
plots.Explorer({"a layer": (torch.randn(48, 96), torch.rand(96))})
"""
SLIDER = """
def attempt(**how):
    return {"pattern": "none", "zeros": 0.5, "perplexity": 33.3, "writes": "a line"} | how


plots.Slider(attempt, pd.DataFrame([attempt(), attempt(pattern="2:4")]))
"""

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def page():
    (ROOT / "build").mkdir(exist_ok=True)
    with playwright.sync_playwright() as started:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
        if found is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("no Chromium here: `python -m playwright install chromium` fetches one")
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab of its own, on a copy of the notebook and another one of two cells."""
    stored = nbformat.read(ROOT / "notebooks" / NOTEBOOK, 4)
    for cell in stored.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None  # so that what is seen is what was run
        if "parameters" in cell.metadata.get("tags", []):  # less text: what it prints is nbval's to compare
            cell.source += "\nsamples, length, windows = 2, 64, 2"
    nbformat.write(stored, tmp_path / NOTEBOOK)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in (EXPLORER, SLIDER)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "explorer.ipynb")
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--port=0", "--allow-root"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for _ in range(120):
            if address := re.search(r"http://localhost:\d+", (tmp_path / "server.log").read_text()):
                break
            time.sleep(0.5)
        yield lambda notebook: f"{address[0]}/lab/tree/{notebook}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(20)


def run_all(page, address):
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    for _ in range(3):  # what is sent while page and server still connect may be lost
        page.locator("li.lm-MenuBar-item:has-text('Run')").click()
        page.locator("li.lm-Menu-item:has-text('Restart Kernel and Run All Cells')").click()
        page.locator("button.jp-mod-accept").click()
        with contextlib.suppress(playwright.TimeoutError):
            page.wait_for_function(
                "() => document.querySelector('.jp-CodeCell .jp-InputPrompt').textContent.includes('[1]')",
                timeout=150_000,
            )
            return


def code_cells(path):
    """Of a notebook that JupyterLab may be saving just now."""
    while True:
        try:
            return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        except json.JSONDecodeError:
            time.sleep(0.2)


def test_knobs_work(page, lab):
    run_all(page, lab("explorer.ipynb"))
    image = page.locator(".jp-OutputArea img.widget-image").first
    image.wait_for(timeout=400_000)  # beside other tests, on few cores, the kernel takes minutes to load torch
    before = image.get_attribute("src")
    knob = page.locator(".widget-dropdown:has-text('pattern') select")
    knob.first.select_option("2:4")
    page.wait_for_function("before => document.querySelector('img.widget-image').src !== before", arg=before)
    knob.nth(1).select_option("2:4")
    page.locator(".jp-OutputArea:has-text(\"50% zeros, perplexity 33.3: 'a line'\")").first.wait_for(timeout=60_000)
    assert page.locator(".jp-OutputArea img").count() == 2  # the widgets, and not the pictures beside them
    for slider in page.locator(".widget-slider").all():
        assert slider.evaluate("slider => slider.querySelector('[disabled]') !== null")
    page.screenshot(path=ROOT / "build" / "explorer.png")


def test_notebook_00_runs_in_jupyterlab(page, lab, tmp_path):
    run_all(page, lab(NOTEBOOK))
    count = len(code_cells(tmp_path / NOTEBOOK))
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        page.keyboard.press("Control+s")
        cells = code_cells(tmp_path / NOTEBOOK)
        busy = page.evaluate(
            "() => [...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('[*]'))"
        )
        if not busy and cells[-1]["execution_count"] == count:
            break
        time.sleep(2)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, count + 1))
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    figure = page.locator(".jp-RenderedImage img").last
    figure.scroll_into_view_if_needed()
    assert figure.evaluate("image => image.naturalWidth") > 300
    table = page.locator(".jp-RenderedHTMLCommon table:has-text('wanda 2:4')").first
    table.scroll_into_view_if_needed()
    assert "perplexity" in table.inner_text()
    page.screenshot(path=ROOT / "build" / "jupyterlab.png")
