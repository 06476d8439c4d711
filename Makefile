# Each target needs nothing but Python (3.10 to 3.13), pip and make: .venv is made on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/graphopt optimize fixtures/resnet.onnx -o out.onnx \
	    --passes "simplify,fuse,prune-channels{ratio=0.3},quantize{format=int8}" \
	    --calib fixtures/calib.npz --eval fixtures/eval.npz --target sm86 --json out.json
	$(BIN)/graphopt build out.onnx -o out.engine --target sm86 --shapes image:1x1x28x28,8x1x28x28,32x1x28x28

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv out.onnx out.engine out.json

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev,trt,images]'
	touch $@
