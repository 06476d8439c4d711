"""The pass: which nodes change between two opsets, and what onnx makes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, label, nodes_of
from graphopt.ir.checking import skeleton_of_model
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt.pipeline.base import PassContext, PassResult
from graphopt_passes.inline.splice import Splicer
from graphopt_passes.set_opset.island import Island, NotConvertibleError
from graphopt_passes.set_opset.operators import changes, idle_attributes, is_widened, refusal
from graphopt_passes.set_opset.types import Types

OLDEST = 7


def set_opset(model: ir.Model, context: PassContext, version: int) -> PassResult:
    """Converts `model` to opset `version` in place; see `SetOpset`.

    Raises:
        GraphoptError: if that cannot be done, or not without changing results.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= version <= newest:
        raise GraphoptError(
            f"there is no opset {version} to convert to",
            fix=f"choose {OLDEST} to {newest}, which the installed onnx knows",
        )
    old = default_opset(model)
    if old == version:
        return PassResult(model, modified=False)
    if model.functions:
        raise GraphoptError(
            f"the model has functions ({next(iter(model.functions))[1]}), which carry opsets of "
            "their own and are not converted",
            fix="put inline,eliminate-dead ahead of set-opset",
        )
    was_valid = _complaint(model) is None
    counts = _convert(model, context, old, version)
    domain = next((d for d in model.opset_imports if d in DEFAULT_DOMAINS), "")
    model.opset_imports[domain] = version
    model.ir_version = max(model.ir_version, _ir_version(version))
    complaint = _complaint(model) if was_valid else None
    if complaint is not None:
        raise GraphoptError(f"no valid model of opset {version} came out: {complaint}")
    return PassResult(model, modified=True, rewrites={**counts, "opset": 1})


def _ir_version(opset: int) -> int:
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def _complaint(model: ir.Model) -> str | None:
    """What onnx's full check says of `model`, if anything."""
    try:
        onnx.checker.check_model(skeleton_of_model(model), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        ValueError,
    ) as error:
        return " ".join(str(error).split("==> Context")[0].split())
    return None


def _convert(model: ir.Model, context: PassContext, old: int, new: int) -> Counter[str]:
    """Converts the nodes whose operators change; how many of each operator became something else.

    Raises:
        GraphoptError: naming all operators that stand in the way; `model` is as it was then.
    """
    facts, types = context.analyses.facts(model), Types(model)
    islands: list[Island] = []
    widened: list[ir.Node] = []
    unchanged: set[Hashable] = set()
    problems: dict[str, str] = {}
    for node in nodes_of(model):
        if node.domain not in DEFAULT_DOMAINS or not changes(node.op_type, old, new):
            continue
        island = Island(node, facts, types, old, new)
        try:
            reason = refusal(node, facts, old, new)
            if reason is not None:
                raise NotConvertibleError(reason)
            if is_widened(node, old, new):
                widened.append(node)
                continue
            if island.key in unchanged:
                continue
            island.convert()
        except NotConvertibleError as error:
            problems.setdefault(node.op_type, f"{node.op_type} (node '{label(node)}'): {error}")
            continue
        if island.is_unchanged:
            unchanged.add(island.key)
        else:
            islands.append(island)
    if problems:
        raise GraphoptError(
            f"cannot convert from opset {old} to {new}: {'; '.join(problems.values())}",
            fix="choose another opset",
        )
    counts: Counter[str] = Counter()
    for node in widened:
        for name in idle_attributes(node, old, new):
            del node.attributes[name]
    splicer = Splicer(model)
    for island in islands:
        island.splice(splicer)
        counts[island.node.op_type] += 1
    return counts
