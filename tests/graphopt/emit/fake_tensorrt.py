"""Stand-ins for the module `tensorrt`: each has the names of one version, and no others.

What a version has is the table "One builder module" of the design notes. The classes have slots, so
that setting a name which a version lacks fails as it does there.
"""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType
from typing import Any

import onnx

_OLD_FLAGS = ("FP16", "INT8", "BF16", "FP8", "INT4", "OBEY_PRECISION_CONSTRAINTS")
_NETWORK_FLAGS = {
    "10.3": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "10.13": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "11.4": {"STRONGLY_TYPED": 0},
}
_BUILDER_FLAGS = {
    "10.3": {"VERSION_COMPATIBLE": 13, "STRIP_PLAN": 19},
    "10.13": {"VERSION_COMPATIBLE": 13, "STRIP_PLAN": 19},
    "11.4": {"VERSION_COMPATIBLE": 12, "STRIP_PLAN": 18},
}
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
    module.MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0, "DLA_MANAGED_SRAM": 1})
    module.ProfilingVerbosity = IntEnum(
        "ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2}
    )

    class ILogger:
        def log(self, severity: Severity, message: str) -> None:
            raise NotImplementedError

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
        __slots__ = ("_node",)

        def __init__(self, node: onnx.NodeProto) -> None:
            self._node = node

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
            self._network.model = onnx.load(path)
            nodes = self._network.model.graph.node
            self._errors = [ParserError(node) for node in nodes if node.op_type == "NonZero"]
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

    class Profile:
        __slots__ = ()

        def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
            calls.append(("set_shape", name, *shapes))

    class Config:
        __slots__ = (
            "DLA_core",
            "default_device_type",
            "hardware_compatibility_level",
            "profiling_verbosity",
            "runtime_platform",
        )

        def set_flag(self, flag: Any) -> None:
            calls.append(("set_flag", flag.name))

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls.append(("set_memory_pool_limit", pool.name, size))

        def add_optimization_profile(self, profile: Profile) -> int:
            calls.append(("add_optimization_profile",))
            return 0

    class Builder:
        __slots__ = ("_logger",)

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int) -> Network:
            calls.append(("create_network", flags))
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

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
            return b"engine of " + version.encode()

    for kind in (Builder, ILogger, OnnxParser, ParserError):
        setattr(module, kind.__name__, kind)
    return module
