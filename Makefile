PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test format clean

demo: .venv/.stamp
	$(BIN)/fusionscope train --data scenes --epochs 6 --width 12 --lr 0.004 --dynamics --out runs/demo --overwrite
	$(BIN)/fusionscope dissect runs/demo

test: .venv/.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

format: .venv/.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs

# constraints.txt pins the tested set: without it pip would take the newest torch and its CUDA packages.
.venv/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev,peers]'
	touch $@
