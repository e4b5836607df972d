# Everything runs in .venv, made on first use from the exact versions in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
endif
DONE := .venv/installed
# A file, or a notebook, at a time on each core; processes that wait for one another do not spin.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lab notebooks student site

demo: $(DONE)  ## prune a real model twice and print how it fares
	$(BIN)/python notebooks/run.py 00

test: $(DONE)  ## unit tests, then every notebook, strictly
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest tests $(PARALLEL)
	$(BIN)/python -m pytest --nbval notebooks $(PARALLEL)

lab: $(DONE)  ## open the notebooks
	$(BIN)/python -m jupyter lab notebooks

notebooks: $(DONE)  ## run all notebooks again and store their outputs
	$(BIN)/python notebooks/run.py --inplace 0 1

student: $(DONE)  ## write the students' copies again, from the notebooks
	$(BIN)/python notebooks/student.py

SITE := build/site
site:  ## the notebooks as HTML with navigation and search: build/site/_build/html
	$(PYTHON) -m venv build/site-venv
	build/site-venv/$(notdir $(BIN))/python -m pip install --quiet --disable-pip-version-check jupyter-book==1.0.4.post1
	rm -rf $(SITE) && mkdir -p $(SITE)
	cp -r *.md LICENSE CITATION.cff notebooks data site/*.yml $(SITE)
	build/site-venv/$(notdir $(BIN))/jupyter-book build -W --keep-going $(SITE)

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
	$(BIN)/python -c "open('$(DONE)', 'w').close()"
