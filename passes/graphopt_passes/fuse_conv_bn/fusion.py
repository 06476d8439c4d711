"""The pass: for each BatchNormalization, the node before it, and whether it can take it over."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import (
    add_constant,
    default_opset,
    infer_shapes,
    is_standard,
    label,
    rank,
    replaced_operators,
    sole_use,
    take_over,
)
from graphopt.pipeline.base import PassResult
from graphopt_passes.fuse_conv_bn.hosts import (
    Editor,
    fuse_conv,
    fuse_conv_transpose,
    fuse_gemm,
    fuse_matmul,
    fuse_matmul_add,
    release,
)
from graphopt_passes.fuse_conv_bn.norm import Affine, DeclinedError, affine_of

_NORM = "BatchNormalization"


def fuse_conv_bn(model: ir.Model) -> PassResult:
    """Folds the BatchNormalizations of `model`, in place; see `FuseConvBn`."""
    if _NORM in replaced_operators(model):
        return PassResult(model, modified=False)
    norms = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if is_standard(n, _NORM)]
    declined = _in_functions(model)
    rewrites: Counter[str] = Counter()
    fuser = _Fuser(model)
    for norm in norms:
        try:
            rewrites[fuser.fuse(norm)] += 1
        except DeclinedError as reason:
            declined.setdefault(str(reason), []).append(norm)
    notes = tuple(_note(reason, nodes) for reason, nodes in declined.items())
    return PassResult(model, bool(rewrites), dict(sorted(rewrites.items())), notes)


def _in_functions(model: ir.Model) -> dict[str, list[ir.Node]]:
    """What is declined at once: functions have no initializers, and may be called many times."""
    nodes = [
        node
        for function in model.functions.values()
        for node in ir.traversal.RecursiveGraphIterator(function)
        if is_standard(node, _NORM)
    ]
    return {"it is in a function": nodes} if nodes else {}


def _note(reason: str, nodes: list[ir.Node]) -> str:
    if len(nodes) == 1:
        return f"{_NORM} '{label(nodes[0])}' kept: {reason}."
    return f"{len(nodes)} {_NORM} nodes kept ('{label(nodes[0])}' first): {reason}."


class _Fuser:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._opset = default_opset(model)
        self._edit = Editor(model)
        self._replaced = replaced_operators(model)
        self._ranks: dict[str | None, int | None] | None = None

    def fuse(self, norm: ir.Node) -> str:
        """Folds `norm` into what is before it; the name of the rewrite.

        Raises:
            DeclinedError: if it stays, with the reason; then nothing has been changed.
        """
        if norm.graph is None:
            raise ValueError(f"node '{norm.name}' is in no graph")
        affine = affine_of(norm, self._opset)
        host = self._single_use_producer(norm.inputs[0], norm)
        result = self._fuse_into(host, norm, affine)
        if not take_over(norm.outputs[0], result):
            raise ValueError(f"the output of '{norm.name}' cannot be taken over")
        parameters = norm.inputs[1:]
        norm.graph.remove(norm, safe=True)
        for value in parameters:
            release(value)
        return f"{host.op_type.lower()}-bn"

    def _fuse_into(self, host: ir.Node, norm: ir.Node, affine: Affine) -> ir.Value:
        """Gives `host` the effect of `norm`; the value that takes the place of its output."""
        if is_standard(host, "Conv"):
            fuse_conv(host, affine, self._edit)
        elif is_standard(host, "ConvTranspose"):
            fuse_conv_transpose(host, affine, self._edit)
        elif is_standard(host, "Gemm") and self._opset >= 7:  # before, it broadcasts on request
            fuse_gemm(host, affine, self._edit)
        elif is_standard(host, "MatMul"):
            self._require_rows(norm)
            return self._add(host, norm, fuse_matmul(host, affine, self._edit))
        elif is_standard(host, "Add") and self._opset >= 7:
            product = self._product_before(host)
            self._require_rows(norm)
            fuse_matmul_add(product, host, affine, self._edit)
        else:
            raise DeclinedError(f"the {host.op_type} before it cannot take it over")
        return host.outputs[0]

    def _single_use_producer(self, value: ir.Value | None, user: ir.Node) -> ir.Node:
        producer = None if value is None else value.producer()
        if value is None or producer is None:
            raise DeclinedError("there is no node before it")
        if producer.graph is not user.graph:
            raise DeclinedError("the node before it is in another graph")
        if value.is_graph_output():
            raise DeclinedError("the value before it is an output of the graph")
        if is_standard(producer, *self._replaced):
            raise DeclinedError("the node before it calls a function")
        if sole_use(value) is not user:
            raise DeclinedError("the value before it is used elsewhere too")
        return producer

    def _product_before(self, add: ir.Node) -> ir.Node:
        products = [
            producer
            for value in add.inputs
            if value is not None
            and (producer := value.producer()) is not None
            and is_standard(producer, "MatMul")
        ]
        if len(products) != 1:
            raise DeclinedError("the Add before it does not follow one MatMul")
        return self._single_use_producer(products[0].outputs[0], add)

    def _require_rows(self, norm: ir.Node) -> None:
        """The channels of a matrix product are its last axis, those of `norm` are axis 1."""
        value = norm.inputs[0]
        known = rank(value)
        if known is None and value is not None:
            known = self._inferred_ranks().get(value.name)
        if known is None:
            raise DeclinedError("the rank of the matrix product before it is not known")
        if known != 2:
            raise DeclinedError("its channels are not the columns of the matrix product before it")

    def _inferred_ranks(self) -> dict[str | None, int | None]:
        """The ranks of the main graph's values by name, inferred once."""
        if self._ranks is None:
            copy = self._model.clone()
            try:
                infer_shapes(copy)
            except GraphoptError:
                self._ranks = {}  # no ranks, no fusion of matrix products
                return self._ranks
            self._ranks = {v.name: rank(v) for node in copy.graph for v in node.outputs}
        return self._ranks

    def _add(self, product: ir.Node, norm: ir.Node, shift: np.ndarray) -> ir.Value:
        """An Add of `shift` to the output of `product`, in the place of `norm`."""
        before, graph = product.outputs[0], norm.graph
        if graph is None:
            raise ValueError(f"node '{norm.name}' is in no graph")
        add = ir.Node("", "Add", [before, None], name=norm.name)
        after = add.outputs[0]
        after.name = self._edit.fresh(f"{before.name}_shifted")
        after.type, after.shape = before.type, before.shape
        graph.insert_before(norm, add)
        weight = product.inputs[1]
        base = f"{weight.name if weight is not None else product.name}_bias"
        add.replace_input_with(1, add_constant(self._model, self._edit.fresh(base), shift, add))
        return after
