"""What a target will not take of a model, as far as tables know: no builder is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.targets import Target
from graphopt.targets.operators import ONLY_TENSORRT, UNKNOWN

if TYPE_CHECKING:
    import onnx_ir as ir

TENSORRT, TENSORRT_RTX = "TensorRT", "TensorRT-RTX"

NO_INT32 = (
    "keep biases in float: TensorRT has no int32 DequantizeLinear "
    "(ONNX Runtime's quantizer: extra_options={'QuantizeBias': False})"
)
SYMMETRIC = "quantize symmetrically, with zero points of 0"
ELSEWHERE = "TensorRT itself has it: build with --backend tensorrt on the machine that will run it"

# By the name that onnx_ir gives a data type: the precision that it is.
_PRECISIONS = {
    "BFLOAT16": "bf16",
    "FLOAT8E4M3FN": "fp8",
    "INT4": "int4",
    "FLOAT4E2M1": "fp4",
}
# M: refused by the parser as the type of quantized values.
_NOT_READ = frozenset({"INT16", "UINT16", "UINT4", "FLOAT8E5M2", "FLOAT8E4M3FNUZ"})
_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Finding:
    """Something about a model that stands in the way of an engine.

    Attributes:
        node: the node's name, or its first output's; "" if it is about the whole model.
        operator: its operator, with its domain if that is not ONNX's own.
        reason: what is wrong, in one line.
        fix: what to do about it, if that is known.
        lacking: who refuses it: "TensorRT", "TensorRT-RTX" where TensorRT itself takes it, or the
            name of the target.
        is_error: whether there is no engine with it. Without, it is a warning.
    """

    node: str
    operator: str
    reason: str
    fix: str | None
    lacking: str
    is_error: bool = True

    @property
    def text(self) -> str:
        """All of it in one line."""
        what = f"node '{self.node}' [{self.operator}]" if self.node else "the model"
        return f"{what}: {self.reason}" + (f"; {self.fix}" if self.fix else "")


def survey(model: ir.Model, target: Target) -> list[Finding]:
    """What is known to fail, in the order of the nodes."""
    from graphopt.ir import default_opset, nodes_of

    found = []
    opset = default_opset(model)
    if target.opsets is not None and not target.opsets[0] <= opset <= target.opsets[1]:
        least, greatest = target.opsets
        found.append(
            Finding(
                "",
                "",
                f"uses opset {opset}, and {target.name} takes {least} to {greatest}",
                f"convert it with --passes set-opset{{version={min(greatest, max(least, opset))}}}",
                target.name,
            )
        )
    own = {(function.domain, function.name) for function in model.functions.values()}
    for node in nodes_of(model):
        if (node.domain, node.op_type) not in own:
            found += _of_node(node, target)
    return found


def _of_node(node: ir.Node, target: Target) -> Iterator[Finding]:
    from graphopt.ir import is_standard

    if not is_standard(node, node.op_type):
        yield _finding(
            node,
            "an operator that is not ONNX's own runs only with a TensorRT plugin of its name",
            "replace it by standard operators, or give TensorRT the plugin",
            TENSORRT,
        )
        return
    if node.op_type in ONLY_TENSORRT:
        yield _finding(node, "TensorRT-RTX does not have this operator", ELSEWHERE, TENSORRT_RTX)
    elif node.op_type in UNKNOWN:
        fix = UNKNOWN[node.op_type]
        yield _finding(node, "TensorRT does not have this operator", fix, TENSORRT)
    if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
        yield from _of_quantizer(node)
    yield from _of_types(node, target)


def _of_quantizer(node: ir.Node) -> Iterator[Finding]:
    from graphopt.ir import constant_tensor

    kind = _quantized_type(node)
    if node.op_type == "DequantizeLinear" and kind == "INT32":
        yield _finding(node, "dequantizes int32, a bias", NO_INT32, TENSORRT)
    elif kind in _NOT_READ:
        fix = "quantize to int8"
        yield _finding(node, f"TensorRT does not read {kind.lower()} values", fix, TENSORRT)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    known = constant_tensor(zero)
    if zero is not None and known is None:
        reason = "the zero point is not a constant"
        yield _finding(node, reason, "make it an initializer of zeros", TENSORRT)
    elif known is not None and (known.numpy() != 0).any():
        yield _finding(node, "the zero point is not 0", SYMMETRIC, TENSORRT)


def _of_types(node: ir.Node, target: Target) -> Iterator[Finding]:
    """Values in a type that the GPU does not compute in."""
    for value in (*node.inputs, *node.outputs):
        kind = value.dtype.name if value is not None and value.dtype is not None else ""
        precision = _PRECISIONS.get(kind)
        refusal = target.why_not(precision) if precision is not None else None
        if refusal is not None:
            fix = f"it computes in {target.precisions_text()}"
            yield _finding(node, refusal, fix, target.name)
            return
    quantizes = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    if quantizes and _quantized_type(node) in ("INT8", "UINT8"):
        refusal = target.why_not("int8")
        if refusal is not None:
            fix = "it builds, but in float: leave out Q/DQ for this target"
            yield _finding(node, refusal, fix, target.name, is_error=False)
    first = node.inputs[0] if node.inputs else None
    kind = first.dtype.name if first is not None and first.dtype is not None else ""
    if node.op_type in _PRODUCTS and kind == "FLOAT":
        refusal = target.why_not("fp32")
        if refusal is not None:
            fix = "cast the model to fp16 with cast-precision"
            yield _finding(node, refusal, fix, target.name)


def _quantized_type(node: ir.Node) -> str:
    """The type of the quantized side of a Q or DQ node; "" if it is not known."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    value = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    known = [each.dtype for each in (zero, value) if each is not None and each.dtype is not None]
    return known[0].name if known else ""


def _finding(
    node: ir.Node, reason: str, fix: str, lacking: str, *, is_error: bool = True
) -> Finding:
    from graphopt.ir import is_standard, label

    standard = is_standard(node, node.op_type)
    operator = node.op_type if standard else f"{node.domain}.{node.op_type}"
    return Finding(label(node), operator, reason, fix, lacking, is_error)
