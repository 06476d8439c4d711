"""What simplifying a model with large weights in a file of its own takes.

    python tools/bench_large.py FOLDER                   # 0.5 and 2.4 GB
    python tools/bench_large.py FOLDER --gb 2.4 --peer   # and what ONNX Runtime makes of it

Each model is a stack of layers, MatMul and Add with a Mul by one, a Relu and Identities between
them, 2,000 Identities in all. Each run is a process of its own: its CPU seconds, the most memory
that it held, and how many nodes are left. The folder is made, and needs room for each model and
its result; what is written there is deleted again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 4096
IDENTITIES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, nargs="+", default=[0.524, 2.4])
    parser.add_argument("--peer", action="store_true", help="ONNX Runtime's basic level too")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        print(json.dumps(_measured(args.run, args.folder / "in.onnx", args.folder / "out.onnx")))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    print("  file GB  tool           cpu s  peak MiB  nodes")
    for size in args.gb:
        nodes = make(args.folder, size)
        print(f"{size:9.2f}  {'the model':12}{'':18}{nodes:7}")
        for tool in ("graphopt", *(["ort-basic"] if args.peer else [])):
            command = [sys.executable, __file__, str(args.folder), "--run", tool]
            row = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            print(f"{size:9.2f}  {tool:12}{row['cpu']:8.1f}{row['peak']:10.0f}{row['nodes']:7}")
            _delete(args.folder, "out")
        _delete(args.folder, "in")


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def make(folder: Path, gigabytes: float) -> int:
    """Writes in.onnx and in.data; how many nodes the model has."""
    layers = max(1, round(gigabytes * 1e9 / (4 * WIDTH * WIDTH)))
    nodes, tensors, value = [], [], "x"
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [WIDTH], np.linspace(-1, 1, WIDTH))
    generator = np.random.default_rng(0)
    with (folder / "in.data").open("wb") as file:
        for layer in range(layers):
            offset = file.tell()
            data = generator.standard_normal((WIDTH, WIDTH), np.float32) / 64
            file.write(data.tobytes())
            tensors.append(_external(f"w{layer}", offset, data.nbytes))
            for op_type, more in (
                ("MatMul", f"w{layer}"),
                ("Add", "bias"),
                ("Mul", "one"),
                ("Relu", ""),
            ):
                inputs = [value, more] if more else [value]
                value = f"{op_type.lower()}{layer}"
                nodes.append(helper.make_node(op_type, inputs, [value]))
            for i in range(IDENTITIES // layers):
                nodes.append(helper.make_node("Identity", [value], [f"i{layer}_{i}"]))
                value = f"i{layer}_{i}"
    nodes.append(helper.make_node("Softmax", [value], ["y"], axis=-1))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "large", ports[:1], ports[1:], [*tensors, one, bias])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (folder / "in.onnx").write_bytes(model.SerializeToString())
    return len(nodes)


def _external(name: str, offset: int, length: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "in.data"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _measured(tool: str, source: Path, output: Path) -> dict[str, float]:
    start = time.process_time()
    if tool == "graphopt":
        import graphopt

        model = graphopt.optimize(source, "lossless", verify="off").model
        graphopt.save(model, output, external_data=True)
    else:
        _basic(source, output)
    spent = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    left = onnx.load(output, load_external_data=False).graph.node
    return {"cpu": spent, "peak": peak, "nodes": len(left)}


def _basic(source: Path, output: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(output)
    key = "session.optimized_model_external_initializers_file_name"
    options.add_session_config_entry(key, "out.data")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _delete(folder: Path, stem: str) -> None:
    for path in folder.glob(f"{stem}.*"):
        path.unlink()


if __name__ == "__main__":
    main()
