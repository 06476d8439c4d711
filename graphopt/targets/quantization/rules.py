"""What is to be said of a family of targets to place its quantized tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.targets.quantization.costs import Costs


@dataclass(frozen=True)
class OperatorRule:
    """An operator that the target computes in integers when its data and its weight are quantized.

    Attributes:
        weight_ranks: the ranks of a weight that it takes, from the least to the greatest.
        weight_axis: the axis of the weight along which each output channel has its own scale.
        transposed_by: an attribute that, when it is 1, makes that axis 0.
        unset: attributes that must be absent or 0.
        ones: attributes that must be absent or 1.
        data: the index of the data input.
        weight: the index of the weight input.
        bias: the index of the bias input, if it has one.
        added_bias: whether a constant that an Add behind it adds to each row counts as its bias.
        most_taps: how many positions a kernel may have at most, where that is limited.
        float_output: whether the kernel can give floats. If not, what it gives is quantized too.
    """

    weight_ranks: tuple[int, int]
    weight_axis: int
    transposed_by: str | None = None
    unset: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    data: int = 0
    weight: int = 1
    bias: int | None = None
    added_bias: bool = False
    most_taps: int | None = None
    float_output: bool = True


@dataclass(frozen=True)
class Numbers:
    """What values become.

    Attributes:
        precision: what the target must compute in, one of `Target.precisions`.
        data: the format of data, a key of `graphopt.quantization.FORMATS`.
        weight: the format of weights. They are symmetric, and without the least integer.
        symmetric: whether the zero point of data is 0.
        floats: the float types, by their names in ONNX, of what can be quantized.
        stored: the types, by their names in ONNX, that a model may hold already.
        integer_biases: whether biases become int32, with the scale of the data times that of the
            weight.
    """

    precision: str
    data: str
    weight: str
    symmetric: bool
    floats: tuple[str, ...]
    stored: frozenset[str]
    integer_biases: bool = False


@dataclass(frozen=True)
class QuantizationRules:
    """Placement of QuantizeLinear and DequantizeLinear for one family of targets and one format.

    Attributes:
        numbers: what data and weights become.
        operators: what is computed in integers. Data and weight are both quantized, or neither.
        float_operators: what has multiply-accumulates and stays float, each with the reason.
        movers: operators that only move values (their first input's to their first output). The
            pair is placed above them, so that the target moves integers.
        selectors: operators that move some of the values. The pair is not placed above them,
            for the range of the values that they drop is of no concern; but if their input is
            quantized anyway, nothing is quantized again below.
        joins: operators whose inputs share one scale, so that joining them moves integers.
        followers: operators without a weight that are computed in integers where all their inputs
            are quantized anyway; what they give is quantized too.
        gates: those of the followers that are clipped straight lines, HardSigmoid, and are written
            as an addition and a Clip.
        spelled: operators that are x * HardSigmoid(x), and are written so first.
        gelu_opset: to which opset a model is raised for one operator in place of a Gelu that is
            spelled out between pairs; 0 if it is found there anyway.
        clamps: activations that a kernel with an integer output takes in, if the range of the
            output begins at 0: the pair stands behind them.
        pairs_behind_movers: whether a mover has a pair of the same scale behind it as well, since
            kernels are found as DequantizeLinear -> operator -> QuantizeLinear.
        whole_products: whether a product whose result is split is computed in float, so that its
            parts are better products of their own.
        additions: operators that end a residual block.
        residual_branches: an addition of the output of such an operator, computed in integers, and
            a tensor that is quantized anyway reads the quantized one: the skip is then stored in
            integers.
        epilogues: operators of one value each that kernels take in on their way out, or that cost
            as much in any type: integer layers on both sides of them are neighbours.
        island_reuse: a layer without an integer neighbour stays float if each element of its data
            enters fewer multiply-accumulates than this: the pair costs more than they save.
        costs: what nodes take in float and in integers. With it layers stay float wherever that is
            faster, and `island_reuse` is of no account.
        requantized: float operators of which the runtime makes integer ones, with one scale for
            the whole weight, where their data is dequantized with one scale. They read it from a
            DequantizeLinear with a scale for each channel, all of them equal.
        narrow_squeeze: pool -> Conv -> activation -> Conv with at most so many channels between
            the Convs is computed in float whatever its pairs.
    """

    numbers: Numbers
    operators: Mapping[str, OperatorRule]
    float_operators: Mapping[str, str]
    movers: frozenset[str]
    selectors: frozenset[str]
    joins: frozenset[str] = frozenset()
    followers: frozenset[str] = frozenset()
    gates: frozenset[str] = frozenset()
    spelled: frozenset[str] = frozenset()
    gelu_opset: int = 0
    clamps: frozenset[str] = frozenset()
    pairs_behind_movers: bool = False
    whole_products: bool = False
    additions: frozenset[str] = frozenset()
    residual_branches: frozenset[str] = frozenset()
    epilogues: frozenset[str] = frozenset()
    island_reuse: float = 0
    costs: Costs | None = None
    requantized: frozenset[str] = frozenset()
    narrow_squeeze: int = 0
