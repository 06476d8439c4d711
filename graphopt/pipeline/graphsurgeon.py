"""A user's existing GraphSurgeon function as a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.errors import GraphoptError
from graphopt.options import format_options
from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class GraphSurgeonPass(Pass):
    """Runs a function over the model as an `onnx_graphsurgeon.Graph`.

    The function changes the graph that it gets, or returns another. What it does to the numbers
    is measured and reported.
    """

    name: ClassVar[str] = "graphsurgeon"
    stage: ClassVar[Stage] = Stage.ANY
    effect: ClassVar[Effect] = Effect.LOSSY

    function: str | Callable[[Any], Any]
    """`module:function`, or in Python the function itself."""

    def __post_init__(self) -> None:
        if callable(self.function):
            text = _text(self.function)
            if _resolves_to(text, self.function):
                object.__setattr__(self, "function", text)
            return
        from graphopt.data.functions import is_function

        if not is_function(self.function):
            raise ValueError(f"function must be module:function, not '{self.function}'")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        import onnx_graphsurgeon as gs

        from graphopt.data.functions import blaming, import_function
        from graphopt.ir import load, to_graphsurgeon

        function = (
            import_function(self.function) if isinstance(self.function, str) else self.function
        )
        graph = to_graphsurgeon(model)
        with blaming(str(self)):
            returned = function(graph)
        if returned is not None and not isinstance(returned, gs.Graph):
            raise GraphoptError(f"returned {type(returned).__name__}, not a graph", where=str(self))
        result = load(graph if returned is None else returned)
        result.metadata_props.update(model.metadata_props)
        return PassResult(result, modified=True, rewrites={"function applied": 1})

    def __str__(self) -> str:
        text = self.function if isinstance(self.function, str) else _text(self.function)
        return self.name + format_options({"function": text})


def _text(function: Callable[[Any], Any]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', repr(function))}"


def _resolves_to(text: str, function: Callable[[Any], Any]) -> bool:
    import sys

    module, _, name = text.partition(":")
    return getattr(sys.modules.get(module), name, None) is function
