"""Which nodes become low: the rules, in the order in which they are asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, is_standard
from graphopt.ir.facts import Facts
from graphopt_passes.cast_precision import flows
from graphopt_passes.cast_precision.constants import Constants
from graphopt_passes.cast_precision.low import Loss, LowType
from graphopt_passes.cast_precision.magnitudes import Magnitudes
from graphopt_passes.cast_precision.signature import Signatures
from graphopt_passes.cast_precision.tables import (
    ADDITIONS,
    ADDITIVE,
    EXPONENTIALS,
    GROWING,
    LARGEST_ANGLE,
    MASKED,
    MOVERS,
    NEVER,
    PERIODIC,
    ROUNDERS,
    SQUARE_SUMS,
    SUMS,
    WEIGHTED,
)

Use = tuple[ir.Node, int]


@dataclass
class Decision:
    """What becomes of each node.

    Attributes:
        left: the nodes that stay as they are, each with the reason.
        masked: the constants, by the input that reads them, that become masks of the low type.
        saturated: inputs that are raised to `LowType.mask` where they are cast to the low type.
    """

    signatures: Signatures
    low: LowType
    left: dict[ir.Node, str] = field(default_factory=dict)
    masked: set[Use] = field(default_factory=set)
    saturated: set[Use] = field(default_factory=set)

    def is_low(self, node: ir.Node | None) -> bool:
        return node is not None and node not in self.left and node in self.signatures.of

    def leave(self, node: ir.Node, reason: str) -> None:
        self.left.setdefault(node, reason)

    def reads_low(self, node: ir.Node, index: int) -> bool:
        return self.is_low(node) and index in self.signatures.of[node].inputs

    def gives_low(self, value: ir.Value | None) -> bool:
        """Whether a node stores `value` in the low type."""
        producer = None if value is None else value.producer()
        if value is None or producer is None or not self.is_low(producer):
            return False
        return value.index() in self.signatures.of[producer].outputs

    def moved(self, twins: Mapping[ir.Node, ir.Node]) -> Decision:
        """The same for a copy of the model, by node of this one."""
        return Decision(
            self.signatures.moved(twins),
            self.low,
            {twins[node]: reason for node, reason in self.left.items()},
            {(twins[node], index) for node, index in self.masked},
            {(twins[node], index) for node, index in self.saturated},
        )

    def low_nodes(self) -> list[ir.Node]:
        """The nodes with a float that becomes low."""
        of = self.signatures.of
        return [
            n for n in self.signatures.nodes if self.is_low(n) and (of[n].inputs or of[n].outputs)
        ]


class Decider:
    """Asks the rules about every node of a model."""

    def __init__(
        self,
        signatures: Signatures,
        facts: Facts,
        low: LowType,
        measured: Mapping[ir.Value, Loss],
        headroom: float,
        kept: Collection[ir.Node],
    ) -> None:
        self._facts = facts
        self._low = low
        self._kept = kept
        self._nodes = [node for node in signatures.nodes if not is_standard(node, "Constant")]
        self._signatures = signatures
        self._constants = Constants(low)
        self._magnitudes = Magnitudes(signatures, self._constants, measured, low, headroom)
        self._decision = Decision(signatures, low)

    def decide(self) -> Decision:
        rules: tuple[Callable[[ir.Node], str | None], ...] = (
            self._refused,
            self._constant,
            self._sum,
            self._growing,
        )
        for node in self._nodes:
            for rule in rules:
                reason = rule(node)
                if reason is not None:
                    self._decision.leave(node, reason)
                    break
        self._chains()
        self._ranges()
        fill(self._decision)
        return self._decision

    def _refused(self, node: ir.Node) -> str | None:
        refusal = self._signatures.of[node].refusal
        return "to be kept" if refusal is None and node in self._kept else refusal

    def _constant(self, node: ir.Node) -> str | None:
        """A constant that the type cannot hold."""
        for index in sorted(self._signatures.of[node].inputs):
            if self._constants.overflows(node.inputs[index]):
                if flows.masks(node, index) and self._is_negative(node.inputs[index]):
                    self._decision.masked.add((node, index))
                elif not self._constants.is_bound(node, index) and not _pads_a_pool(node, index):
                    return f"its constant '{node.inputs[index].name}' overflows"  # type: ignore[union-attr]
            reason = self._constants.problem(node, index)
            if reason is not None:
                return reason
        return None

    def _is_negative(self, value: ir.Value | None) -> bool:
        loss = self._constants.loss(value)
        return loss is not None and loss.high <= self._low.largest

    def _sum(self, node: ir.Node) -> str | None:
        """A sum of which a part may overflow."""
        is_square = is_standard(node, *SQUARE_SUMS)
        if not is_square and not is_standard(node, *SUMS):
            return None
        source, result = (self._magnitudes.loss(v) for v in (node.inputs[0], node.outputs[0]))
        if source is None or result is None:
            return "a sum, of which no range is measured"
        terms = source.size / max(result.size, 1)
        bound = terms * (source.peak**2 if is_square else source.peak)
        if self._magnitudes.fits(bound):
            return None
        return f"a sum of {terms:.0f} numbers up to {source.peak:.3g}"

    def _growing(self, node: ir.Node) -> str | None:
        """A function that may overflow, inside or in its result, where its inputs do not."""
        if is_standard(node, *NEVER):
            return "products or exponentials inside"
        loss = self._magnitudes.loss(node.inputs[0] if node.inputs else None)
        if is_standard(node, *GROWING):
            return None if loss is not None or _is_root(node) else "no range is measured"
        if is_standard(node, *EXPONENTIALS):
            if loss is not None and loss.high <= math.log(self._low.largest):
                return None
            return "its exponential may overflow"
        if is_standard(node, *PERIODIC):
            if loss is not None and loss.peak <= LARGEST_ANGLE:
                return None
            return "an angle that may be large"
        if is_standard(node, *ROUNDERS):
            if loss is not None and loss.peak <= self._low.exact_integers:
                return None
            return "its integers may be too large"
        return None

    def _chains(self) -> None:
        """What depends on more than a node and its inputs."""
        leave = self._decision.leave
        for node in flows.statistics(self._nodes, self._signatures):
            leave(node, "the statistics of a normalization")
        alone, whole = flows.integers(self._signatures, self._facts, self._low)
        for node in alone:
            leave(node, "computed from integers alone")
        for node in self._nodes:
            for index in sorted(self._signatures.of[node].inputs):
                value = node.inputs[index]
                if value in whole and not flows.masks(node, index) and not self._is_flag(value):
                    leave(node, "it reads integers that may be too large")
        for node in flows.index_arithmetic(self._signatures):
            if not is_standard(node, "Cast"):
                leave(node, "arithmetic on indices")
        for node in self._nodes:
            if is_standard(node, *ADDITIONS) and any(map(self._is_epsilon, node.inputs)):
                guarded = flows.guarded_by(node)
                for one in [node, *guarded] if guarded else ():
                    leave(one, "an epsilon keeps it from a division by 0")

    def _is_flag(self, value: ir.Value | None) -> bool:
        """Whether `value`, which is an integer, was never more than 1."""
        loss = self._magnitudes.loss(value)
        return loss is not None and loss.peak <= 1

    def _is_epsilon(self, value: ir.Value | None) -> bool:
        loss = self._constants.loss(value)
        return loss is not None and loss.signal > 0 and loss.sqnr_db < self._low.least_sqnr

    def _ranges(self) -> None:
        """What is too large or too small, and who reads it; but for masks."""
        masks: set[ir.Value] = set()
        for node in self._nodes:
            self._inputs(node, masks)
            if self._is_mask(node, masks):
                masks.update(node.outputs)
        for node in self._nodes:
            for index in sorted(self._signatures.of[node].outputs):
                value = node.outputs[index]
                if value in masks or not self._decision.is_low(node):
                    continue
                if self._magnitudes.is_large(value):
                    self._decision.leave(node, f"its result is large{self._seen(value)}")
                elif self._magnitudes.is_small(value):
                    self._decision.leave(node, f"its result is small{self._seen(value)}")

    def _inputs(self, node: ir.Node, masks: set[ir.Value]) -> None:
        signature, decision = self._signatures.of[node], self._decision
        reads = signature.inputs or ({0} if is_standard(node, "Cast") and signature.outputs else ())
        for index in sorted(reads):
            value = node.inputs[index]
            if value is None or constant_tensor(value) is not None or value in masks:
                continue
            if self._magnitudes.is_large(value):
                downwards = not self._magnitudes.is_large(value, upwards=True)
                if downwards and flows.masks(node, index):
                    decision.saturated.add((node, index))
                else:
                    decision.leave(node, f"it reads what is large{self._seen(value)}")
            elif self._magnitudes.is_small(value) and index not in ADDITIVE.get(node.op_type, ()):
                decision.leave(node, f"it reads what is small{self._seen(value)}")

    def _is_mask(self, node: ir.Node, masks: set[ir.Value]) -> bool:
        """Whether `node` gives scores of which some are masked."""
        if not is_standard(node, *MOVERS, *MASKED):
            return False
        uses = ((node, index) for index in range(len(node.inputs)))
        return any(
            use in self._decision.masked or use in self._decision.saturated or value in masks
            for use, value in zip(uses, node.inputs, strict=True)
        )

    def _seen(self, value: ir.Value) -> str:
        loss = self._magnitudes.loss(value)
        return "" if loss is None else f" (up to {loss.peak:.2g})"


def _is_root(node: ir.Node) -> bool:
    """Whether `node` is a Pow that makes nothing larger."""
    exponent = constant_array(node.inputs[1]) if is_standard(node, "Pow") else None
    return exponent is not None and bool(((exponent >= 0) & (exponent <= 1)).all())


def _pads_a_pool(node: ir.Node, index: int) -> bool:
    """Whether input `index` of `node` is what is put around the input of a MaxPool."""
    users = [user for user, _ in node.outputs[0].uses()]
    is_inner = bool(users) and not node.outputs[0].is_graph_output()
    return (
        is_standard(node, "Pad")
        and index == 2
        and is_inner
        and all(is_standard(user, "MaxPool") for user in users)
    )


def fill(decision: Decision) -> None:
    """Leaves what would only be cast to the low type and back, until there is none."""
    changed = True
    while changed:
        changed = False
        for node in decision.signatures.nodes:
            if decision.is_low(node) and _is_between(node, decision):
                is_pair = is_standard(node, "QuantizeLinear", "DequantizeLinear")
                decision.leave(node, f"{'beside' if is_pair else 'between'} nodes in fp32")
                changed = True


def _is_between(node: ir.Node, decision: Decision) -> bool:
    signature = decision.signatures.of[node]
    if is_standard(node, "QuantizeLinear"):  # what it gives is the same, and better rounded
        return not decision.gives_low(node.inputs[0])
    if is_standard(node, "DequantizeLinear"):
        users = list(node.outputs[0].uses())
        return bool(users) and all(_wants_float(user, i, decision) for user, i in users)
    if is_standard(node, "Cast", "ConstantOfShape") and signature.outputs:
        uses = list(node.outputs[0].uses())
        return all(_wants_float(user, index, decision) for user, index in uses)
    if not signature.inputs or is_standard(node, *WEIGHTED):
        return False
    read = [node.inputs[index] for index in sorted(signature.inputs)]
    varying = [value for value in read if constant_tensor(value) is None]
    if not varying or any(_is_open(value, decision) for value in varying):
        return False
    uses = [use for index in sorted(signature.outputs) for use in node.outputs[index].uses()]
    if any(node.outputs[index].is_graph_output() for index in signature.outputs):
        return False
    if not signature.outputs:
        return len(varying) == 1
    return bool(uses) and all(_wants_float(user, index, decision) for user, index in uses)


def _is_open(value: ir.Value | None, decision: Decision) -> bool:
    """Whether `value` is low, or comes from outside."""
    return value is None or value.producer() is None or decision.gives_low(value)


def _wants_float(user: ir.Node, index: int, decision: Decision) -> bool:
    return not is_standard(user, "Cast", "Shape") and not decision.reads_low(user, index)
