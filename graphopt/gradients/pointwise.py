"""Gradients of operators that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphopt.gradients.call import Array, Call, Rule, fold


def _times(gradient: Array, slope: Array) -> Array:
    """A gradient of zero stays zero, also where the slope is infinite: that is masked behind."""
    product = np.asarray(gradient * slope)
    return product if np.isfinite(product).all() else np.where(gradient == 0, 0, product)


def _unary(slope: Callable[[Call], Array]) -> Rule:
    """The rule of an operator of one operand, from its derivative."""
    return lambda call, _: _times(call.dy, slope(call))


def _binary(left: Callable[[Call], Array], right: Callable[[Call], Array]) -> Rule:
    def rule(call: Call, index: int) -> Array:
        gradient = _times(call.dy, (right if index else left)(call))
        return fold(gradient, call.input(index).shape)

    return rule


def _one(call: Call) -> Array:
    return np.ones((), call.dy.dtype)


def _variadic(call: Call, index: int) -> Array:
    divisor = len(call.inputs) if call.node.op_type == "Mean" else 1
    return fold(call.dy / divisor, call.input(index).shape)


def _extreme(call: Call, index: int) -> Array:
    """Max and Min: operands that are equal share the gradient."""
    ties = sum(
        (value == call.y).astype(call.dy.dtype) for value in call.inputs if value is not None
    )
    return fold(call.dy * (call.input(index) == call.y) / ties, call.input(index).shape)


def _power_base(call: Call) -> Array:
    x, power = call.x, call.input(1)
    return np.asarray(power * np.power(x, np.where(power == 0, 1, power - 1)))


def _power_exponent(call: Call) -> Array:
    return np.asarray(call.y * np.log(np.where(call.x > 0, call.x, 1)))


def _where(call: Call, index: int) -> Array:
    taken = call.x if index == 1 else ~call.x
    return fold(call.dy * taken, call.input(index).shape)


def _same(call: Call, index: int) -> Array:
    return call.dy


def _clip(call: Call) -> Array:
    low = call.input(1) if call.has(1) else -math.inf
    high = call.input(2) if call.has(2) else math.inf
    return np.asarray((call.x >= low) & (call.x <= high))


def _clip_rule(call: Call, index: int) -> Array:
    """The bounds are taken for constants: their gradient is summed where they bind."""
    if index == 0:
        return np.asarray(call.dy * _clip(call))
    bound = call.input(index)
    binds = call.x < bound if index == 1 else call.x > bound
    return np.asarray((call.dy * binds).sum()).reshape(bound.shape)


def _leaky(default: float) -> Rule:
    return _unary(lambda c: np.where(c.x >= 0, 1, c.number("alpha", default)))


def _prelu(call: Call, index: int) -> Array:
    gradient = call.dy * (
        np.minimum(call.x, 0) if index else np.where(call.x < 0, call.input(1), 1)
    )
    return fold(gradient, call.input(index).shape)


def _hard_sigmoid(call: Call) -> Array:
    return np.asarray(call.number("alpha", 0.2) * ((call.y > 0) & (call.y < 1)))


def _hard_swish(call: Call) -> Array:
    return np.where(call.x <= -3, 0, np.where(call.x >= 3, 1, call.x / 3 + 0.5))


def _gelu(call: Call) -> Array:
    x = call.x
    if call.node.attributes.get_string("approximate", "none") == "tanh":
        root = math.sqrt(2 / math.pi)
        tanh = np.tanh(root * (x + 0.044715 * x**3))
        inner = root * (1 + 3 * 0.044715 * x**2)
        return np.asarray(0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * inner)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    # Gelu is x times the normal distribution function: numpy has none of its own.
    near = np.abs(x) < 1e-3
    share = np.where(near, 0.5 + x / math.sqrt(2 * math.pi), call.y / np.where(near, 1, x))
    return np.asarray(share + x * density)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _mish(call: Call) -> Array:
    tanh = np.tanh(np.logaddexp(0, call.x))
    return np.asarray(tanh + call.x * (1 - tanh**2) * _sigmoid(call.x))


def _swish(call: Call) -> Array:
    alpha = call.number("alpha", 1.0)
    share = _sigmoid(alpha * call.x)
    return np.asarray(share + alpha * call.x * share * (1 - share))


def _elu(call: Call) -> Array:
    alpha = call.number("alpha", 1.0)
    return np.where(call.x > 0, 1, alpha * np.exp(np.minimum(call.x, 0)))


def _selu(call: Call) -> Array:
    alpha, gamma = (
        call.number("alpha", 1.67326319217681884765625),
        call.number("gamma", 1.05070102214813232421875),
    )
    return gamma * np.where(call.x > 0, 1, alpha * np.exp(np.minimum(call.x, 0)))


RULES: dict[str, Rule] = {
    "Abs": _unary(lambda c: np.sign(c.x)),
    "Add": _binary(_one, _one),
    "Cast": _same,
    "CastLike": _same,
    "Celu": _unary(
        lambda c: np.where(c.x > 0, 1, np.exp(np.minimum(c.x, 0) / c.number("alpha", 1)))
    ),
    "Clip": _clip_rule,
    "Cos": _unary(lambda c: -np.sin(c.x)),
    "Div": _binary(lambda c: 1 / c.input(1), lambda c: -c.y / c.input(1)),
    "Dropout": _same,
    "Elu": _unary(_elu),
    "Erf": _unary(lambda c: 2 / math.sqrt(math.pi) * np.exp(-(c.x**2))),
    "Exp": _unary(lambda c: c.y),
    "Gelu": _unary(_gelu),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(_hard_swish),
    "Identity": _same,
    "LeakyRelu": _leaky(0.01),
    "Log": _unary(lambda c: 1 / c.x),
    "Max": _extreme,
    "Mean": _variadic,
    "Min": _extreme,
    "Mish": _unary(_mish),
    "Mul": _binary(lambda c: c.input(1), lambda c: c.x),
    "Neg": _unary(lambda c: -_one(c)),
    "PRelu": _prelu,
    "Pow": _binary(_power_base, _power_exponent),
    "Reciprocal": _unary(lambda c: -(c.y**2)),
    "Relu": _unary(lambda c: c.x > 0),
    "Selu": _unary(_selu),
    "Sigmoid": _unary(lambda c: c.y * (1 - c.y)),
    "Sin": _unary(lambda c: np.cos(c.x)),
    "Softplus": _unary(lambda c: _sigmoid(c.x)),
    "Softsign": _unary(lambda c: 1 / (1 + np.abs(c.x)) ** 2),
    "Sqrt": _unary(lambda c: 0.5 / c.y),
    "Sub": _binary(_one, lambda c: -_one(c)),
    "Sum": _variadic,
    "Swish": _unary(_swish),
    "Tanh": _unary(lambda c: 1 - c.y**2),
    "ThresholdedRelu": _unary(lambda c: c.x > c.number("alpha", 1.0)),
    "Where": _where,
}
