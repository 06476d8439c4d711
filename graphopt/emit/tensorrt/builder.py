"""The one way from an ONNX file to an engine, for every version of TensorRT and TensorRT-RTX.

`trt` is the module. Names are looked up in it, never numbers written down: the values of its enums
differ between versions. Precision is in the graph, so no builder flag asks for any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.dimensions import UNKNOWN_DIMENSIONS
from graphopt.emit.tensorrt.kernel_table import HEADER
from graphopt.emit.tensorrt.messages import Complaint, describe, describe_errors, fix_for
from graphopt.emit.tensorrt.monitor import BuildProgress, make_monitor
from graphopt.emit.tensorrt.options import (
    apply_options,
    require_dla_shapes,
    timing_cache_content,
    use_timing_cache,
)
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult
from graphopt.emit.tensorrt.shapes import InputSpec, profile_of
from graphopt.errors import GraphoptError

# The operators whose kernels the report follows.
COMPUTE_OPERATORS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
_ERRORS = frozenset({"ERROR", "INTERNAL_ERROR"})


@dataclass
class Log:
    """What the builder said.

    Attributes:
        sink: gets every message as it comes, so that the last ones survive a crash.
    """

    sink: Callable[[str], None] = lambda line: None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def take(self, severity: str, message: str) -> None:
        self.sink(f"{severity}: {message}")
        if severity in _ERRORS:
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)
        elif message.startswith(HEADER):
            self.tables.append(message)


def build(
    trt: Any,
    request: BuildRequest,
    log: Log,
    *,
    gpu: Callable[[], str | None],
    tell: Callable[[BuildProgress], None] = lambda progress: None,
) -> BuildResult:
    """Builds the engine and writes it to `request.engine`.

    Args:
        trt: the module `tensorrt_rtx` or `tensorrt`.
        gpu: finds the compute capability of this machine's GPU; None if there is none.
        tell: is told how far the build is, where this version can say so.

    Raises:
        GraphoptError: if the model is at fault, or the builder refuses it.
    """
    nodes = require_valid(request)
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    _parse(trt, network, logger, request, log)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = make_monitor(trt, tell)
    if monitor is not None:
        config.progress_monitor = monitor
    apply_options(trt, config, request.options, product_name(trt))
    _set_gpu(trt, config, request, gpu)
    profile = _add_profile(builder, config, network, request)
    require_dla_shapes(request.options, profile)
    timing_cache = request.options.timing_cache
    if timing_cache is not None:
        use_timing_cache(config, Path(timing_cache), product_name(trt))
    started = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if engine is None:
        reason = describe_errors(log.errors)
        raise GraphoptError(
            f"{product_name(trt)} cannot build it for {request.target}: {reason}",
            where=request.model,
            fix=fix_for(reason),
        )
    with memoryview(engine) as content:
        _write(Path(request.engine), content)
        size = content.nbytes
    if timing_cache is not None:
        _replace(Path(timing_cache), timing_cache_content(config))
    return BuildResult(
        builder=product_name(trt),
        build_seconds=seconds,
        engine_bytes=size,
        profile=profile,
        nodes=nodes,
        tables=tuple(log.tables),
        warnings=tuple(dict.fromkeys(" ".join(text.split()) for text in log.warnings)),
    )


def require_valid(request: BuildRequest) -> tuple[tuple[str, str], ...]:
    """Refuses what is not a valid model: the parser takes some garbage for an empty network.

    Returns:
        The (name, operator) of each node with multiply-accumulates.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        onnx.checker.check_model(request.model)
        model = onnx.load(request.model, load_external_data=False)
    except (onnx.checker.ValidationError, DecodeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split("==> Context")[0].split())
        raise GraphoptError(f"is not a valid ONNX model: {reason}", where=request.model) from None
    except OSError as error:
        raise GraphoptError(f"cannot be read ({error.strerror})", where=request.model) from None
    if not model.graph.node:
        raise GraphoptError(
            "the graph has no nodes, so there is nothing to build", where=request.model
        )
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            request.require_opset(entry.version)
    return tuple(
        # What the parsers call a node without a name.
        (node.name or f"node_of_{node.output[0]}", node.op_type)
        for node in _nodes(model.graph)
        if node.op_type in COMPUTE_OPERATORS and node.domain in ("", "ai.onnx")
    )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from _nodes(subgraph)


def make_logger(trt: Any, log: Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(severity.name, message)

    return Logger()


def network_flags(trt: Any) -> int:
    """Strongly typed, and an explicit batch where that is still a choice."""
    known = trt.NetworkDefinitionCreationFlag
    if not hasattr(known, "STRONGLY_TYPED"):
        raise GraphoptError(
            f"{product_name(trt)} cannot take the types from the model",
            fix="install TensorRT 10.3 or newer",
        )
    flags = 1 << int(known.STRONGLY_TYPED)
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    return flags


def _parse(trt: Any, network: Any, logger: Any, request: BuildRequest, log: Log) -> None:
    parser = trt.OnnxParser(network, logger)
    import onnx

    model = onnx.load(request.model, load_external_data=False)
    if without_empty_names(model):
        parsed = parser.parse(model.SerializeToString(), request.model)
    else:
        parsed = parser.parse_from_file(request.model)
    if not parsed or parser.num_errors:
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        text = describe([_complaint(error) for error in errors])
        if not parser.num_errors:
            text = describe_errors(log.errors)
        raise GraphoptError(
            f"{product_name(trt)} cannot read it: {text}", where=request.model, fix=fix_for(text)
        )
    if network.num_layers == 0:
        raise GraphoptError(
            f"{product_name(trt)} reads it as an empty network", where=request.model
        )


def without_empty_names(model: Any) -> bool:
    """Takes away names of inputs' dimensions that say nothing; returns whether there were any.

    The builder would have all dimensions of one name be equal, and Paddle calls each of them "?".
    """
    dims = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    empty = [dim for dim in dims if dim.dim_param in UNKNOWN_DIMENSIONS - {""}]
    for dim in empty:
        dim.ClearField("dim_param")
    return bool(empty)


def _complaint(error: Any) -> Complaint:
    code = error.code()
    return Complaint(
        code=getattr(code, "name", str(code)),
        node=error.node_name(),
        operator=error.node_operator(),
        text=error.desc(),
    )


def _set_gpu(trt: Any, config: Any, request: BuildRequest, gpu: Callable[[], str | None]) -> None:
    """Names the compute capability, or where the builder has no such choice checks this GPU's."""
    if not hasattr(trt, "ComputeCapability"):
        present = gpu()
        if request.sm is not None and present is not None and present != request.sm:
            raise GraphoptError(
                f"this machine's GPU has compute capability {present}, {request.target} has "
                f"{request.sm}, and {product_name(trt)} builds for the GPU that it runs on",
                fix=f"build on {request.target} itself",
            )
        return
    capability = "SM" + (request.sm or "").replace(".", "")
    known = trt.ComputeCapability.__members__
    if capability not in known:
        raise GraphoptError(
            f"{product_name(trt)} cannot build for compute capability {request.sm} "
            f"({request.target})",
            fix=f"it builds for {', '.join(_capabilities(known))}",
        )
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(known[capability], 0):
        raise GraphoptError(f"{product_name(trt)} does not accept {capability}")


def _capabilities(known: Iterable[str]) -> list[str]:
    numbers = sorted(int(name[2:]) for name in known if name.startswith("SM"))
    return [f"{number // 10}.{number % 10}" for number in numbers]


def _add_profile(builder: Any, config: Any, network: Any, request: BuildRequest) -> dict[str, Any]:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in tensors:
        if tensor.is_shape_tensor:
            raise GraphoptError(
                f"the values of input '{tensor.name}' decide the shape of other tensors",
                where=request.model,
                fix="make it a constant of the model",
            )
    profile = profile_of([_input_spec(tensor) for tensor in tensors], request.shapes)
    if profile:
        made = builder.create_optimization_profile()
        for name, (least, optimal, greatest) in profile.items():
            made.set_shape(name, least, optimal, greatest)
        if config.add_optimization_profile(made) < 0:
            raise GraphoptError(f"the builder refuses the shapes {profile}", where=request.model)
    return profile


def _input_spec(tensor: Any) -> InputSpec:
    dims = tuple(tensor.shape)
    return InputSpec(
        name=tensor.name,
        dims=dims,
        symbols=tuple(
            (tensor.get_dimension_name(axis) or None) if size == -1 else None
            for axis, size in enumerate(dims)
        ),
    )


def _write(path: Path, content: memoryview) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise GraphoptError(
            f"the engine cannot be written ({error.strerror})",
            where=str(path.parent),
            fix="free some space or choose another place; nothing was changed",
        ) from None


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise GraphoptError(
            f"the timing cache cannot be written ({error.strerror})", where=str(path)
        ) from None


def product_name(trt: Any) -> str:
    product = "TensorRT-RTX" if "rtx" in trt.__name__ else "TensorRT"
    return f"{product} {trt.__version__}"
