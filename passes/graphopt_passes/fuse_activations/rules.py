"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.fuse_activations.gelu import gelu
from graphopt_passes.fuse_activations.hard import CLIPS, hard_sigmoid, hard_swish
from graphopt_passes.fuse_activations.rectifiers import (
    leaky_relu_by_max,
    prelu,
    prelu_by_where,
    prelu_of_a_number,
    relu,
)
from graphopt_passes.fuse_activations.smooth import (
    mish,
    overflowing_softplus,
    sigmoid,
    softplus,
    softplus_with_threshold,
    softsign,
    swish,
)
from graphopt_passes.fuse_activations.softmax import log_of_softmax, log_softmax, softmax

RULES: tuple[Rule, ...] = (
    Rule("gelu", ("Mul", "Div"), gelu, ("Erf", "Tanh")),
    Rule("hard-sigmoid", ("Clip", "Div", "Max", "Min", "Mul", "Relu"), hard_sigmoid, CLIPS),
    Rule("hard-swish", ("Mul", "Div"), hard_swish, ("HardSigmoid", *CLIPS)),
    Rule("swish", ("Mul",), swish, ("Sigmoid", "Exp")),
    Rule("mish", ("Mul",), mish, ("Tanh",)),
    Rule("sigmoid", ("Div", "Reciprocal"), sigmoid, ("Exp",)),
    Rule("softplus", ("Add",), softplus, ("Log",)),
    Rule("softplus", ("Where",), softplus_with_threshold),
    Rule("softplus", ("Log",), overflowing_softplus),
    Rule("softsign", ("Div",), softsign, ("Abs",)),
    Rule("relu", ("Clip", "Max"), relu),
    Rule("leaky-relu", ("Max",), leaky_relu_by_max),
    Rule("prelu", ("Add", "Sub"), prelu),
    Rule("prelu", ("Where",), prelu_by_where),
    Rule("leaky-relu", ("PRelu",), prelu_of_a_number),
    Rule("softmax", ("Div", "Mul"), softmax, ("Exp",)),
    Rule("log-softmax", ("Sub",), log_softmax, ("Exp",)),
    Rule("log-softmax", ("Log",), log_of_softmax),
)
