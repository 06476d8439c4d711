"""What a target will not take of a model, as far as tables know: no builder is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.emit.tensorrt.messages import refused_opset
from graphopt.targets import Target, get_target, target_names
from graphopt.targets.operators import ONLY_TENSORRT, TEXT, UNKNOWN

if TYPE_CHECKING:
    import onnx_ir as ir

TENSORRT, TENSORRT_RTX = "TensorRT", "TensorRT-RTX"

NO_INT32 = (
    "keep biases in float: TensorRT has no int32 DequantizeLinear "
    "(ONNX Runtime's quantizer: extra_options={'QuantizeBias': False})"
)
SYMMETRIC = "quantize symmetrically, with zero points of 0"
SYMMETRIC_INT8 = "quantize to int8, with zero points of 0"
_INSTEAD = "int32, int64 or a float type"
_AS = f"compute it in {_INSTEAD}"
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
# M: no tensor of these is read, be it an input, a weight or what a Cast makes.
_NO_TYPES = frozenset(
    {
        *("STRING", "INT16", "UINT16", "UINT32", "UINT64", "COMPLEX64", "COMPLEX128"),
        *("FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ"),
    }
)
UNREADABLE = "a type that TensorRT does not read"


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

    found = made_for_another(model, target)
    refusal = refused_opset(default_opset(model), target.opsets, target.name)
    if refusal is not None:
        found.append(Finding("", "", *refusal, target.name))
    found += _of_inputs(model)
    own = {(function.domain, function.name) for function in model.functions.values()}
    for node in nodes_of(model):
        if (node.domain, node.op_type) not in own:
            found += _of_node(node, target)
    return found + misread(model)


def made_for_another(model: ir.Model, target: Target) -> list[Finding]:
    """A warning if the record in `model` says that graphopt made it for another kind of target.

    Its integers and its layout are those of that target, and any error may come of that.
    """
    from graphopt.pipeline.record import read_record

    name = read_record(model).get("target", "")
    if name not in target_names() or get_target(name).family in ("generic", target.family):
        return []
    reason = f"graphopt made it for {name}, as its record says"
    fix = f"optimize the original again with --target {target.name}"
    return [Finding("", "", reason, fix, TENSORRT, is_error=False)]


def misread(model: ir.Model) -> list[Finding]:
    """Warnings of what TensorRT takes for something else than ONNX says, without a word."""
    from graphopt.ir import is_standard, main_inputs, nodes_of

    found = []
    for value in main_inputs(model):
        if value.dtype is not None and value.dtype.name == "DOUBLE":
            reason = f"input '{value.name}' is float64, which TensorRT takes and computes as fp32"
            found.append(Finding("", "", reason, "feed it float32", TENSORRT, is_error=False))
    for node in nodes_of(model):
        if not is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            continue
        if _quantized_type(node) == "UINT8" and not _has_offset(node) and not _is_weight(node):
            reason = "TensorRT takes uint8 for int8: what is above 127 becomes another number"
            found.append(_finding(node, reason, SYMMETRIC_INT8, TENSORRT, is_error=False))
    return found


def _of_inputs(model: ir.Model) -> Iterator[Finding]:
    import onnx_ir as ir

    from graphopt.ir import main_inputs

    for value in main_inputs(model):
        kind = value.dtype.name if value.dtype is not None else ""
        if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
            reason = f"input '{value.name}' is a sequence or optional, {UNREADABLE}"
            yield Finding("", "", reason, "make its tensors inputs of their own", TENSORRT)
        elif kind in _NO_TYPES:
            reason = f"input '{value.name}' is {kind.lower()}, {UNREADABLE}"
            fix = (
                TEXT if kind == "STRING" else f"make it {_INSTEAD}, with a Cast ahead of the model"
            )
            yield Finding("", "", reason, fix, TENSORRT)


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
    elif kind == "UINT8" and _is_weight(node):
        yield _finding(node, "TensorRT does not read uint8 weights", SYMMETRIC_INT8, TENSORRT)
    elif kind in _NOT_READ:
        fix = "quantize to int8"
        yield _finding(node, f"TensorRT does not read {kind.lower()} values", fix, TENSORRT)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and constant_tensor(zero) is None:
        reason = "the zero point is not a constant"
        yield _finding(node, reason, "make it an initializer of zeros", TENSORRT)
    elif _has_offset(node):
        yield _finding(node, "the zero point is not 0", SYMMETRIC, TENSORRT)
    elif constant_tensor(node.inputs[1]) is None:
        reason = "the scale is not a constant: nothing behind it is int8, and some builds crash"
        yield _finding(node, reason, "make it an initializer", TENSORRT, is_error=False)


def _is_weight(node: ir.Node) -> bool:
    from graphopt.ir import constant_tensor

    return constant_tensor(node.inputs[0]) is not None


def _has_offset(node: ir.Node) -> bool:
    """Whether the zero point is known, and not 0."""
    from graphopt.ir import constant_tensor

    known = constant_tensor(node.inputs[2] if len(node.inputs) > 2 else None)
    return known is not None and bool((known.numpy() != 0).any())


def _of_types(node: ir.Node, target: Target) -> Iterator[Finding]:
    """Values in a type that TensorRT does not read, or that the GPU does not compute in."""
    from graphopt.ir import is_standard

    if not is_standard(node, "QuantizeLinear", "DequantizeLinear"):
        for value in (*node.inputs, *node.outputs):
            kind = value.dtype.name if value is not None and value.dtype is not None else ""
            # Inputs of the model have a finding of their own.
            if value is not None and not value.is_graph_input() and kind in _NO_TYPES:
                reason = f"'{value.name}' is {kind.lower()}, {UNREADABLE}"
                yield _finding(node, reason, TEXT if kind == "STRING" else _AS, TENSORRT)
                return
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
