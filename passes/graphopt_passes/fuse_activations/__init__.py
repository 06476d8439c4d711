"""Make one activation operator of the nodes that spell it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseActivations"]


@dataclass(frozen=True)
class FuseActivations(Pass):
    """Make one activation operator of the nodes that spell it out.

    Gelu by erf and by tanh (opset 20), HardSwish (14; before that x * HardSigmoid(x)), Swish (24),
    Mish (18), HardSigmoid, Sigmoid, Softplus, Softsign, Relu, LeakyRelu, PRelu, Softmax and
    LogSoftmax. The order of factors and terms, the side of a constant, and whether an exporter
    divides or multiplies by the inverse make no difference: products, straight lines and
    polynomials are compared by their coefficients. A constant must be the number that it stands
    for, to 1e-6 in float32, or to two roundings in 16-bit types.

    Formulas that break down where the operator does not stay as they are, since their results
    would change: log(1 + exp(x)), Log of Softmax, and a softmax that takes no maximum away.
    The opposite can be seen only near the ends of a type: x * clip(x + 3, 0, 6) / 6 overflows at
    a sixth of its largest number, x * (1 + erf(...)) * 0.5 at a half, and what is made of them does
    not. Where a value in the midst of a formula is used elsewhere, nothing is fused. An operator
    that the model's opset does not have yet is named together with the `set-opset` that helps.
    The sigmoid with factor 1.702 is an approximation of Gelu, not Gelu; it becomes Swish.

    Sources: Hendrycks and Gimpel, "Gaussian error linear units" (2016); Howard et al., "Searching
    for MobileNetV3" (2019); Ramachandran et al., "Searching for activation functions" (2017);
    Misra, "Mish" (2019); the function bodies in the ONNX operator specification.
    """

    name: ClassVar[str] = "fuse-activations"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_activations.rules import RULES

        return rewrite(model, context, RULES)
