"""Arithmetic element by element: signed zeros, what is no number, broadcasting, overflow."""

from __future__ import annotations

import numpy as np

from careless.graph import Graph

V = "(float[14] x) => (float[14] y)"
I = "(int32[8] x) => (int32[8] y)"  # noqa: E741

GRAPHS = (
    Graph(
        "zero_and_minus_zero_are_two_constants",
        "merging initializers by value makes 1/-0 out of 1/0",
        """g (float[2] x) => (float[2] a, float[2] b)
        <float[2] p = {0.0, 0.0}, float[2] n = {-0.0, -0.0}>
        { s = Mul (x, x) i = Div (s, p) j = Div (s, n) a = Add (i, i) b = Add (j, j) }""",
    ),
    Graph(
        "nan_constants_keep_to_themselves",
        "NaN != NaN, so a search by value may never end or merge it with zero",
        """g (float[2] x) => (float[2] a, float[2] b)
        <float[2] p = {nan, 0.0}, float[2] n = {0.0, nan}> { a = Add (x, p) b = Add (x, n) }""",
    ),
    Graph(
        "add_zero_changes_minus_zero",
        "x + 0 is x but for -0, which becomes 0",
        f"g {V} <float zero = {{0.0}}> {{ y = Add (x, zero) }}",
        edges=True,
    ),
    Graph(
        "add_minus_zero",
        "x + -0 is x for every x",
        f"g {V} <float zero = {{-0.0}}> {{ y = Add (x, zero) }}",
        edges=True,
    ),
    Graph(
        "subtract_zero",
        "x - 0 is x, but 0 - x is -x but for the sign of zero",
        "g (float[14] x) => (float[14] y, float[14] z) "
        "<float zero = {0.0}> { y = Sub (x, zero) z = Sub (zero, x) }",
        edges=True,
    ),
    Graph(
        "multiply_by_zero",
        "x * 0 is no zero for infinities, NaN and negative numbers",
        f"g {V} <float zero = {{0.0}}> {{ y = Mul (x, zero) }}",
        edges=True,
    ),
    Graph(
        "multiply_by_minus_one",
        "x * -1 is Neg, not Identity",
        f"g {V} <float c = {{-1.0}}> {{ y = Mul (x, c) }}",
        edges=True,
    ),
    Graph(
        "multiply_by_nearly_one",
        "one and a bit is no one",
        f"g {V} <float c = {{1.0000001}}> {{ y = Mul (x, c) }}",
    ),
    Graph(
        "multiply_by_ones_but_the_last",
        "all elements must be one",
        "g (float[4] x) => (float[4] y) <float[4] c = {1, 1, 1, 2}> { y = Mul (x, c) }",
    ),
    Graph(
        "x_minus_x",
        "x - x is no zero for infinities and NaN",
        f"g {V} {{ y = Sub (x, x) }}",
        edges=True,
    ),
    Graph(
        "x_divided_by_x",
        "x / x is no one for zeros, infinities and NaN",
        f"g {V} {{ y = Div (x, x) }}",
        edges=True,
    ),
    Graph(
        "integer_x_divided_by_x",
        "dividing integers truncates; x / x * x is x only where x is not 0",
        "g (int32[4] x) => (int32[4] y) <int32[4] c = {3, -2, 7, 1}> "
        "{ a = Mul (x, c) b = Div (a, c) d = Div (b, c) y = Mul (d, c) }",
    ),
    Graph(
        "reciprocal_of_reciprocal",
        "1/(1/x) rounds twice, and overflows for subnormal x",
        f"g {V} {{ a = Reciprocal (x) y = Reciprocal (a) }}",
        edges=True,
    ),
    Graph(
        "log_of_exp",
        "log(exp(x)) is infinite where exp overflows",
        f"g {V} {{ a = Exp (x) y = Log (a) }}",
        edges=True,
    ),
    Graph(
        "sqrt_of_square",
        "sqrt(x^2) is |x|, not x",
        f"g {V} {{ a = Mul (x, x) y = Sqrt (a) }}",
    ),
    Graph(
        "square_of_sqrt",
        "sqrt(x)^2 is NaN for negative x",
        f"g {V} {{ a = Sqrt (x) y = Mul (a, a) }}",
        edges=True,
    ),
    Graph(
        "double_neg_and_abs",
        "Neg of Neg goes, Abs of Neg is Abs, Neg of Abs stays",
        "g (float[14] x) => (float[14] a, float[14] b, float[14] c) "
        "{ n = Neg (x) a = Neg (n) b = Abs (n) m = Abs (x) c = Neg (m) }",
        edges=True,
    ),
    Graph(
        "double_not",
        "Not of Not is the value; Not of Not of Not is not",
        "g (bool[4] x) => (bool[4] y, bool[4] z) { a = Not (x) y = Not (a) z = Not (y) }",
    ),
    Graph(
        "pow_special_cases",
        "x^0 is one even for NaN, x^1 is x, x^0.5 is no Sqrt for -0 and -inf, x^2 may be x*x",
        """g (float[14] x) => (float[14] a, float[14] b, float[14] c, float[14] d, float[14] e)
        <float zero = {0}, float one = {1}, float half = {0.5}, float two = {2}, float m = {-1}>
        { a = Pow (x, zero) b = Pow (x, one) c = Pow (x, half) d = Pow (x, two) e = Pow (x, m) }""",
        edges=True,
    ),
    Graph(
        "pow_of_integers",
        "the result has the type of the base",
        "g (int32[4] x) => (int32[4] y) <float e = {0.5}> { a = Abs (x) y = Pow (a, e) }",
    ),
    Graph(
        "pow_with_a_base_of_lower_rank",
        "x^1 takes the exponent's shape",
        "g (float[3] x) => (float[2, 3] y) <float[2, 1] e = {1, 1}> { y = Pow (x, e) }",
    ),
    Graph(
        "add_chain_reordered",
        "(x + a) + b is no x + (a + b) when the sum overflows",
        f"g {V} <float a = {{3e38}}, float b = {{-3e38}}> {{ s = Add (x, a) y = Add (s, b) }}",
        edges=True,
    ),
    Graph(
        "mul_chain_overflows",
        "(x * a) * b is no x * (a * b) when the product overflows or vanishes",
        f"g {V} <float a = {{1e30}}, float b = {{1e-30}}, float c = {{1e-30}}> "
        "{ s = Mul (x, a) t = Mul (s, b) y = Mul (t, c) }",
        edges=True,
    ),
    Graph(
        "mul_of_constants_that_overflow_together",
        "the product of the constants is infinite, that of the chain is not",
        f"g {V} <float a = {{1e30}}, float b = {{1e30}}, float c = {{1e-38}}> "
        "{ r = Mul (x, c) s = Mul (r, a) t = Mul (s, c) y = Mul (t, b) }",
    ),
    Graph(
        "div_by_a_power_of_two_and_not",
        "x / 4 is x * 0.25 to the bit, x / 3 is not x * (1/3), x / subnormal is something else",
        "g (float[14] x) => (float[14] a, float[14] b, float[14] c) <float four = {4}, "
        "float three = {3}, float tiny = {1e-45}> "
        "{ a = Div (x, four) b = Div (x, three) c = Div (x, tiny) }",
        edges=True,
    ),
    Graph(
        "distribute_over_a_sum",
        "x*a + x*b is no x*(a+b) when a+b overflows or cancels",
        f"g {V} <float a = {{3e38}}, float b = {{-3e38}}> "
        "{ p = Mul (x, a) q = Mul (x, b) y = Add (p, q) }",
    ),
    Graph(
        "add_zeros_that_broadcast",
        "adding zeros of a larger shape is an Expand",
        "g (float[3] x) => (float[2, 3] y) <float[2, 3] c = {0, 0, 0, 0, 0, 0}> { y = Add (x, c) }",
    ),
    Graph(
        "multiply_by_a_one_of_higher_rank",
        "[[1]] raises the rank",
        "g (float[3] x) => (float[1, 3] y) <float[1, 1] c = {1}> { y = Mul (x, c) }",
    ),
    Graph(
        "divide_a_scalar_by_one",
        "a scalar divided by [1] has rank one",
        "g (float x) => (float[1] y) <float[1] c = {1}> { y = Div (x, c) }",
    ),
    Graph(
        "zero_dimensions_broadcast",
        "adding an empty tensor gives an empty tensor",
        "g (float[1] x) => (float[0] y) <float[0] c = {}> { y = Add (x, c) }",
    ),
    Graph(
        "dynamic_dimension_that_may_be_one",
        "ones of size 3 against N: N may be 1",
        "g (float[N] x) => (float[3] y) <float[3] c = {1, 1, 1}> { y = Mul (x, c) }",
        fixed={"x": np.array([1.5], np.float32)},
    ),
    Graph(
        "sum_and_max_of_one",
        "variadic operators of one input are the input, but for Mean of integers",
        "g (float[14] x) => (float[14] a, float[14] b, float[14] c, float[14] d) "
        "{ a = Sum (x) b = Max (x) c = Min (x) d = Mean (x) }",
        edges=True,
    ),
    Graph(
        "sum_that_broadcasts",
        "Sum of three is no chain that may drop zeros",
        "g (float[3] x, float[2, 1] z) => (float[2, 3] y) <float[1] c = {0}> { y = Sum (x, c, z) }",
    ),
    Graph(
        "int32_overflows",
        "integer arithmetic wraps around in the type of the tensor",
        f"g {I} <int32 c = {{2147483647}}, int32 d = {{1000003}}> "
        "{ a = Add (x, c) b = Mul (a, d) y = Sub (b, c) }",
    ),
    Graph(
        "uint8_wraps",
        "x + 200 + 100 is x + 44 in uint8",
        "g (uint8[4] x) => (uint8[4] y) <uint8 a = {200}, uint8 b = {100}> "
        "{ s = Add (x, a) t = Add (s, b) y = Mul (t, b) }",
    ),
    Graph(
        "mod_of_negative_numbers",
        "Mod takes the sign of the divisor, with fmod that of the dividend",
        "g (int32[8] x) => (int32[8] a, int32[8] b) <int32 c = {3}> "
        "{ a = Mod (x, c) b = Mod <fmod = 1> (x, c) }",
    ),
    Graph(
        "shift_beyond_the_width",
        "left then right loses the top bits",
        """g (uint8[4] x) => (uint8[4] y) <uint8 s = {6}>
        { a = BitShift <direction = "LEFT"> (x, s) y = BitShift <direction = "RIGHT"> (a, s) }""",
    ),
    Graph(
        "comparison_negated",
        "Not(x < y) is no x >= y for NaN",
        "g (float[14] x, float[14] z) => (bool[14] y) { a = Less (x, z) y = Not (a) }",
        edges=True,
    ),
    Graph(
        "x_equals_x",
        "x == x is false for NaN",
        "g (float[14] x) => (bool[14] y, bool[14] z) { y = Equal (x, x) z = IsNaN (x) }",
        edges=True,
    ),
    Graph(
        "where_with_equal_branches_of_other_shapes",
        "Where(c, a, a) has the shape of c and a together",
        "g (bool[2, 1] c, float[3] x) => (float[2, 3] y) { y = Where (c, x, x) }",
    ),
    Graph(
        "where_with_a_constant_condition",
        "the branch taken must be expanded to the shape of all three",
        "g (float[3] x, float[2, 1] z) => (float[2, 3] y) <bool[1] c = {1}> "
        "{ y = Where (c, x, z) }",
    ),
    Graph(
        "where_with_constants_of_other_shapes",
        "folding part of it must broadcast",
        "g (bool[2, 3] c) => (float[2, 3] y) <float[1, 3] a = {1, 2, 3}, float[2, 1] b = {-1, "
        "-0.0}> "
        "{ y = Where (c, a, b) }",
    ),
    Graph(
        "subtraction_and_division_do_not_commute",
        "CSE modulo commutativity is for Add and Mul only",
        "g (float[3] x, float[3] z) => (float[3] a, float[3] b, float[3] c, float[3] d, bool[3] e, "
        "bool[3] f) { a = Sub (x, z) b = Sub (z, x) c = Div (x, z) d = Div (z, x) e = Less (x, z) "
        "f = Less (z, x) }",
    ),
    Graph(
        "minimum_with_nan",
        "Min and Max hand NaN on, whichever side it is on",
        "g (float[14] x, float[14] z) => (float[14] a, float[14] b) "
        "{ a = Min (x, z) b = Max (z, x) }",
        edges=True,
    ),
)
