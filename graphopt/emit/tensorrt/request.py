"""What goes into the child process that builds, and what comes out of it: plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

from graphopt.emit.tensorrt.messages import Complaint, refused_opset
from graphopt.emit.tensorrt.options import BuilderOptions
from graphopt.emit.tensorrt.shapes import ShapeRange
from graphopt.errors import GraphoptError
from graphopt.progress import Progress

# The files through which the two processes speak.
REQUEST_FILE, LOG_FILE, RESULT_FILE, ERROR_FILE = (
    "request.json",
    "log.txt",
    "result.json",
    "error.json",
)


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build.

    Attributes:
        model: the ONNX file, an absolute path.
        engine: where to write the engine, or the folder of a bundle; an absolute path.
        target: the target's name, for messages.
        sm: the compute capability to build for, such as "8.6"; None for that of this GPU.
        opsets: the least and the greatest opset that the parser reads, where known.
        shapes: the given shapes of dynamic inputs.
        timeout_s: how long the build may take, in seconds.
        options: what else is asked of the builder.
        samples: where a bundle's reference inputs come from; see `open_samples`.
        parse_only: whether to say all that the parser refuses, and build nothing.
    """

    model: str
    engine: str
    target: str
    sm: str | None
    opsets: tuple[int, int] | None
    shapes: Mapping[str, ShapeRange]
    timeout_s: float
    options: BuilderOptions = field(default_factory=BuilderOptions)
    samples: str | None = None
    parse_only: bool = False

    def require_opset(self, version: int) -> None:
        """Raises GraphoptError if the parser does not read `version` of ONNX's own opset."""
        refusal = refused_opset(version, self.opsets, self.target)
        if refusal is not None:
            raise GraphoptError(refusal[0], where=self.model, fix=refusal[1])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildRequest:
        values = json.loads(text)
        values["shapes"] = _shapes(values["shapes"])
        values["options"] = BuilderOptions(**values["options"])
        values["opsets"] = None if values["opsets"] is None else tuple(values["opsets"])
        return cls(**values)


@dataclass(frozen=True)
class BuildResult:
    """What the builder made, besides the file at `BuildRequest.engine`.

    Attributes:
        builder: the builder's name and version.
        build_seconds: the wall time of the build itself, without starting and parsing.
        engine_bytes: the size of the engine.
        profile: the optimization profile, by dynamic input.
        nodes: the model's nodes that have multiply-accumulates, as (name, operator).
        tables: the messages of the log that may be kernel tables.
        warnings: the builder's warnings, each once.
        complaints: what the parser refuses, if only that was asked.
        note: why there can be no kernel table, where that is certain; of `complaints`, what was not
            parsed.
    """

    builder: str
    build_seconds: float
    engine_bytes: int
    profile: Mapping[str, ShapeRange] = field(default_factory=dict)
    nodes: tuple[tuple[str, str], ...] = ()
    tables: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    note: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildResult:
        values = json.loads(text)
        values["profile"] = _shapes(values["profile"])
        values["nodes"] = tuple((name, op_type) for name, op_type in values["nodes"])
        values["tables"] = tuple(values["tables"])
        values["complaints"] = tuple(Complaint(**each) for each in values["complaints"])
        values["warnings"] = tuple(values["warnings"])
        return cls(**values)


class EngineBackend(Protocol):
    """Something that builds engines, or what builds them elsewhere."""

    @property
    def name(self) -> str:
        """What the user writes."""
        ...

    @property
    def options(self) -> frozenset[str]:
        """The names of the `BuilderOptions` that have an effect."""
        ...

    @property
    def makes_folder(self) -> bool:
        """Whether it writes a folder rather than a file."""
        ...

    def available(self) -> str | None:
        """None if it can build here, otherwise why not and what to do, in one line."""
        ...

    def build(self, request: BuildRequest, progress: Progress) -> BuildResult:
        """Builds and writes what is at `request.engine` afterwards.

        Raises:
            GraphoptError: if it cannot.
        """
        ...


def _shapes(values: Mapping[str, list[list[int]]]) -> dict[str, ShapeRange]:
    return {
        name: (tuple(least), tuple(optimal), tuple(greatest))
        for name, (least, optimal, greatest) in values.items()
    }
