"""Stand-ins for the module `tensorrt`: each has the names of one version, and no others.

What a version has is the table "One builder module" of the design notes. The classes have slots, so
that setting a name which a version lacks fails as it does there.

An engine is the version and the model; a runtime of the same version runs it with ONNX Runtime, on
memory that `fake_cudart` calls the GPU's.
"""

from __future__ import annotations

import ctypes
import json
import weakref
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

_OLD_FLAGS = ("FP16", "INT8", "BF16", "FP8", "INT4", "OBEY_PRECISION_CONSTRAINTS")
_NETWORK_FLAGS = {
    "10.3": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "10.13": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "11.4": {"STRONGLY_TYPED": 0},
}
_FLAGS_10 = {
    "GPU_FALLBACK": 3,
    "REFIT": 4,
    "SPARSE_WEIGHTS": 8,
    "VERSION_COMPATIBLE": 13,
    "STRIP_PLAN": 19,
}
_FLAGS_11 = {
    "GPU_FALLBACK": 1,
    "REFIT": 2,
    "SPARSE_WEIGHTS": 6,
    "VERSION_COMPATIBLE": 12,
    "STRIP_PLAN": 18,
}
_BUILDER_FLAGS = {"10.3": _FLAGS_10, "10.13": _FLAGS_10, "11.4": _FLAGS_11}
VERSIONS = tuple(_NETWORK_FLAGS)


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ErrorCode(IntEnum):
    UNSUPPORTED_NODE = 8


def make(version: str) -> Any:
    """The module of `version`. Its `calls` are what was asked of it, in order."""
    module: Any = ModuleType("tensorrt")
    calls: list[tuple[Any, ...]] = []
    module.__version__ = f"{version}.0"
    module.calls = calls
    module.NetworkDefinitionCreationFlag = IntEnum(
        "NetworkDefinitionCreationFlag", _NETWORK_FLAGS[version]
    )
    flags = dict(_BUILDER_FLAGS[version])
    if version.startswith("10."):
        flags |= {name: 30 + index for index, name in enumerate(_OLD_FLAGS)}
    module.BuilderFlag = IntEnum("BuilderFlag", flags)
    module.DeviceType = IntEnum("DeviceType", {"GPU": 0, "DLA": 1})
    module.TensorIOMode = IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
    module.DataType = IntEnum(
        "DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "BOOL": 4, "INT64": 8, "BF16": 7}
    )
    module.LayerInformationFormat = IntEnum("LayerInformationFormat", {"ONELINE": 0, "JSON": 1})
    module.MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0, "DLA_MANAGED_SRAM": 1})
    module.ProfilingVerbosity = IntEnum(
        "ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2}
    )

    class ILogger:
        def log(self, severity: Severity, message: str) -> None:
            raise NotImplementedError

    class IProgressMonitor:
        pass

    class Tensor:
        __slots__ = ("_dims", "is_shape_tensor", "name", "shape")

        def __init__(self, info: onnx.ValueInfoProto) -> None:
            self.name = info.name
            self._dims = [dim.dim_param for dim in info.type.tensor_type.shape.dim]
            dims = info.type.tensor_type.shape.dim
            self.shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)
            self.is_shape_tensor = False

        def get_dimension_name(self, axis: int) -> str:
            return self._dims[axis]

    class Network:
        __slots__ = ("model",)

        @property
        def num_layers(self) -> int:
            return len(self.model.graph.node)

        @property
        def num_inputs(self) -> int:
            return len(self.model.graph.input)

        def get_input(self, index: int) -> Tensor:
            return Tensor(self.model.graph.input[index])

    class ParserError:
        __slots__ = ("_index", "_node")

        def __init__(self, index: int, node: onnx.NodeProto) -> None:
            self._index = index
            self._node = node

        def node(self) -> int:
            return self._index

        def code(self) -> ErrorCode:
            return ErrorCode.UNSUPPORTED_NODE

        def node_name(self) -> str:
            return self._node.name

        def node_operator(self) -> str:
            return self._node.op_type

        def desc(self) -> str:
            return "false"

    class OnnxParser:
        __slots__ = ("_errors", "_network")

        def __init__(self, network: Network, logger: ILogger) -> None:
            self._network = network
            self._errors: list[ParserError] = []

        def parse_from_file(self, path: str) -> bool:
            calls.append(("parse_from_file", path))
            return self._take(onnx.load(path))

        def parse(self, model: bytes, path: str | None = None) -> bool:
            calls.append(("parse", path))
            return self._take(onnx.load_from_string(model))

        def _take(self, model: onnx.ModelProto) -> bool:
            self._network.model = model
            self._errors = [
                ParserError(index, node)
                for index, node in enumerate(model.graph.node)
                if node.op_type == "NonZero"
            ]
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    def supports_model(self: OnnxParser, content: bytes) -> Any:
        raise NotImplementedError

    new = version.startswith("11.")
    setattr(OnnxParser, "supports_model_v2" if new else "supports_model", supports_model)

    class TimingCache:
        __slots__ = ("_builder", "content")

        def __init__(self, content: bytes, builder: Any) -> None:
            self.content = content
            self._builder = builder

        def serialize(self) -> bytes:
            assert self._builder() is not None, "after its builder is gone, this is a segfault"
            return b"cache of " + version.encode()

    class Profile:
        __slots__ = ()

        def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
            calls.append(("set_shape", name, *shapes))

    class Config:
        __slots__ = (
            "DLA_core",
            "_builder",
            "_cache",
            "default_device_type",
            "hardware_compatibility_level",
            "profiling_verbosity",
            "progress_monitor",
            "runtime_platform",
        )

        def __init__(self, builder: Builder) -> None:
            self._builder = weakref.ref(builder)
            self.progress_monitor: Any = None

        def set_flag(self, flag: Any) -> None:
            assert flag is module.BuilderFlag[flag.name]
            calls.append(("set_flag", flag.name))

        def create_timing_cache(self, content: bytes) -> TimingCache | None:
            return None if content.startswith(b"garbage") else TimingCache(content, self._builder)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            calls.append(("set_timing_cache", cache.content, ignore_mismatch))
            self._cache = cache
            return cache.content in (b"", b"cache of " + version.encode())

        def get_timing_cache(self) -> TimingCache:
            return self._cache

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls.append(("set_memory_pool_limit", pool.name, size))

        def add_optimization_profile(self, profile: Profile) -> int:
            calls.append(("add_optimization_profile",))
            return 0

    class Builder:
        __slots__ = ("__weakref__", "_logger")

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int) -> Network:
            calls.append(("create_network", flags))
            return Network()

        def create_builder_config(self) -> Config:
            return Config(self)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            calls.append(("build_serialized_network", config.profiling_verbosity.name))
            self._logger.log(Severity.WARNING, "slow   kernel")
            self._logger.log(Severity.VERBOSE, "Engine Layer Information: Layer(Conv)")
            if any(node.op_type == "Erf" for node in network.model.graph.node):
                for text in ("Could not find any implementation", "[catchCudaError] no GPU"):
                    self._logger.log(Severity.ERROR, text)
                return None
            if config.progress_monitor is not None:
                _show_progress(config.progress_monitor)
            return serialize(version, network.model)

    class Context:
        __slots__ = ("_addresses", "_engine", "_shapes")

        def __init__(self, engine: Engine) -> None:
            self._engine = engine
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._shapes[name] = shape
            dims = self._engine.get_tensor_shape(name)
            return len(dims) == len(shape) and all(
                d in (-1, s) for d, s in zip(dims, shape, strict=True)
            )

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if name in self._shapes:
                return self._shapes[name]
            batch = next(iter(self._shapes.values()))[0]
            return tuple(batch if d == -1 else d for d in self._engine.get_tensor_shape(name))

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            engine = self._engine
            feed = {}
            for value in engine.session.get_inputs():
                dtype = engine.numpy_dtype(value.name)
                shape = self._shapes[value.name]
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                content = ctypes.string_at(self._addresses[value.name], size)
                feed[value.name] = np.frombuffer(content, dtype).reshape(shape)
            for value, array in zip(
                engine.session.get_outputs(), engine.session.run(None, feed), strict=True
            ):
                ctypes.memmove(self._addresses[value.name], array.tobytes(), array.nbytes)
            return True

    class Inspector:
        __slots__ = ("_engine",)

        def __init__(self, engine: Engine) -> None:
            self._engine = engine

        def get_engine_information(self, kind: Any) -> str:
            assert kind is module.LayerInformationFormat.JSON
            return inspect(version, self._engine.model)

    class Engine:
        def __init__(self, model: onnx.ModelProto) -> None:
            self.model = model
            self.session = ort.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            self._values = [*self.session.get_inputs(), *self.session.get_outputs()]
            self.num_io_tensors = len(self._values)

        def _value(self, name: str) -> Any:
            return next(value for value in self._values if value.name == name)

        def get_tensor_name(self, index: int) -> str:
            return str(self._values[index].name)

        def get_tensor_mode(self, name: str) -> Any:
            inputs = [value.name for value in self.session.get_inputs()]
            return module.TensorIOMode["INPUT" if name in inputs else "OUTPUT"]

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType[_DATA_TYPES[self._value(name).type][0]]

        def numpy_dtype(self, name: str) -> Any:
            return _DATA_TYPES[self._value(name).type][1]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(d if isinstance(d, int) else -1 for d in self._value(name).shape)

        def create_execution_context(self) -> Context:
            return Context(self)

        def create_engine_inspector(self) -> Inspector:
            return Inspector(self)

    setattr(Engine, "device_memory_size_v2" if new else "device_memory_size", 1 << 20)

    class Runtime:
        __slots__ = ("_logger",)

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            mine, _, model = content.partition(b"\n")
            if mine != b"engine of " + version.encode():
                self._logger.log(Severity.ERROR, "[runtime.cpp::parse] the version does not match")
                return None
            return Engine(onnx.load_from_string(model))

    for kind in (Builder, ILogger, IProgressMonitor, OnnxParser, ParserError, Runtime):
        setattr(module, kind.__name__, kind)
    return module


_DATA_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(bool)": ("BOOL", np.bool_),
}


def serialize(version: str, model: onnx.ModelProto) -> bytes:
    """An engine of `version`."""
    return f"engine of {version}\n".encode() + model.SerializeToString()


def inspect(version: str, model: onnx.ModelProto) -> str:
    """What the inspector says: TensorRT 11 has another name for the tensors of the interface."""
    layers = [{"Name": node.name, "LayerType": node.op_type} for node in model.graph.node]
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    key = "I/O Tensors" if version.startswith("11.") else "Bindings"
    return json.dumps({"Layers": layers, key: names})


def _show_progress(monitor: Any) -> None:
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Tactics", "Building Engine", 5)
    for step in range(5):
        assert monitor.step_complete("Tactics", step)
    monitor.phase_finish("Tactics")
    for step in range(2):
        assert monitor.step_complete("Building Engine", step)
    monitor.phase_finish("Building Engine")
