"""fuse-attention: the heads around Attention."""

from __future__ import annotations

import pytest
from attention import agrees, attributes, feed, numbers, text
from rewriting import Outcome, apply

from graphopt_passes.fuse_attention import FuseAttention


def heads(core: str, after: str = "y = Reshape (o, merged)", result: str = "r, 5, 32") -> Outcome:
    split = "".join(
        f"{x}r = Reshape ({x}, heads) {x}t = Transpose <perm = [0, 2, 1, 3]> ({x}r) " for x in "qkv"
    )
    return apply(
        FuseAttention(),
        text(
            f"(float[n, 5, 32] q, float[b, 5, 32] k) => (float[{result}] y) "
            "<int64[4] heads = {0, 0, 4, 8}, int64[3] merged = {0, 0, -1}, "
            "int64[2] flat = {-1, 32}> "
            f"{{ v = Neg (k) {split} kk = Transpose <perm = [0, 1, 3, 2]> (kt) {core} "
            f"o = Transpose <perm = [0, 2, 1, 3]> (a) {after} }}"
        ),
    )


CORE = "s = MatMul (qt, kk) w = Softmax (s) a = MatMul (w, vt)"


@pytest.mark.parametrize(
    ("core", "after", "operators"),
    [
        # the batch of q and k is not known to be the same
        (CORE, "y = Reshape (o, merged)", None),
        (CORE.replace("qt", "kt"), "y = Reshape (o, merged)", ["Attention"]),
        (CORE.replace("qt", "kt"), "y = Reshape (o, flat)", ["Attention", "Reshape"]),
    ],
)
def test_split_heads(core: str, after: str, operators: list[str] | None) -> None:
    outcome = heads(core, after, "r, 5, 32" if "merged" in after else "m, 32")
    if operators is None:
        assert "Attention" not in outcome.operators
        return
    assert outcome.operators == ["Neg", "Reshape", "Transpose", *operators]
    assert attributes(outcome) == {"scale": 1.0, "q_num_heads": 4, "kv_num_heads": 4}
    assert agrees(outcome, {"q": numbers(2, 5, 32), "k": numbers(2, 5, 32, seed=1)})


@pytest.mark.parametrize("after", ["y = Neg (o)", "y = Reshape (o, swapped)"])
def test_heads_that_are_not_merged(after: str) -> None:
    outcome = heads(
        f"swapped = Constant <value_ints = [0, 0, 0, 8]> () {CORE.replace('qt', 'kt')}",
        after,
        "r, 5, 4, 8",
    )
    assert outcome.operators[-3:] == ["Attention", "Transpose", after[4:].split()[0]]
    assert "q_num_heads" not in attributes(outcome)


def packed(taken: tuple[int, int, int] = (0, 1, 2), selection: str = "Gather") -> Outcome:
    if selection == "Gather":
        made = "".join(f"{x} = Gather (t, i{n}) " for x, n in zip("qkv", taken, strict=True))
    else:
        made = "s0, s1, s2 = Split <num_outputs = 3> (t) " + "".join(
            f"{x} = Squeeze (s{n}, zero) " for x, n in zip("qkv", taken, strict=True)
        )
    return apply(
        FuseAttention(),
        text(
            "(float[n, 5, 96] x) => (float[n, 5, 32] y) <int64[5] split = {0, 5, 3, 4, 8}, "
            "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] zero = {0}, "
            "int64[3] merged = {0, 5, 32}> { r = Reshape (x, split) "
            f"t = Transpose <perm = [2, 0, 3, 1, 4]> (r) {made} "
            "kk = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kk) w = Softmax (s) "
            "a = MatMul (w, v) o = Transpose <perm = [0, 2, 1, 3]> (a) y = Reshape (o, merged) }"
        ),
    )


@pytest.mark.parametrize("selection", ["Gather", "Split"])
@pytest.mark.parametrize("taken", [(0, 1, 2), (2, 0, 1)])
def test_packed_heads(selection: str, taken: tuple[int, int, int]) -> None:
    outcome = packed(taken, selection)
    assert outcome.operators == ["Split", "Attention"]
    assert agrees(outcome, {"x": numbers(2, 5, 96)})


def test_keys_that_are_the_values() -> None:
    outcome = packed((0, 1, 1))
    assert "Split" not in outcome.operators
    assert agrees(outcome, {"x": numbers(2, 5, 96)})


def grouped(order: str = "2, 4, 2, 7, 8", unsqueeze: int = 2) -> Outcome:
    repeat = "".join(
        f"{x}u = Unsqueeze ({x}, at) {x}e = Expand ({x}u, wide) {x}r = Reshape ({x}e, flat) "
        for x in "kv"
    )
    return apply(
        FuseAttention(),
        text(
            "(float[2, 8, 5, 8] q, float[2, 4, 7, 8] k, float[2, 4, 7, 8] v) => "
            f"(float[2, 8, 5, 8] y) <int64[1] at = {{{unsqueeze}}}, int64[5] wide = {{{order}}}, "
            f"int64[4] flat = {{2, 8, 7, 8}}> {{ {repeat} "
            "t = Transpose <perm = [0, 1, 3, 2]> (kr) s = MatMul (q, t) w = Softmax (s) "
            "y = MatMul (w, vr) }"
        ),
    )


def test_groups_of_queries() -> None:
    outcome = grouped()
    assert outcome.operators == ["Attention"]
    shapes = {"q": (2, 8, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 8)}
    assert agrees(outcome, feed(shapes))


def test_heads_that_are_repeated_one_after_the_other() -> None:
    outcome = grouped("2, 2, 4, 7, 8", unsqueeze=1)
    assert outcome.all_operators["Expand"] == 2
    shapes = {"q": (2, 8, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 8)}
    assert agrees(outcome, feed(shapes))


@pytest.mark.parametrize("perm", ["0, 2, 4, 1, 3", "0, 4, 2, 1, 3"])
def test_groups_after_other_passes(perm: str) -> None:
    """The Unsqueeze has become part of the Reshape ahead of it."""
    heads = "".join(
        f"{x}s = Reshape ({x}, split) {x}t = Transpose <perm = [{perm}]> ({x}s) "
        f"{x}e = Expand ({x}t, wide) {x}r = Reshape ({x}e, flat) "
        for x in "kv"
    )
    wide = "2, 4, 2, 7, 8" if perm[3] == "2" else "2, 2, 4, 7, 8"
    outcome = apply(
        FuseAttention(),
        text(
            "(float[2, 7, 64] x, float[2, 7, 32] k, float[2, 7, 32] v) => (float[2, 7, 64] y) "
            "<int64[4] whole = {2, 7, 8, 8}, int64[5] split = {2, 7, 4, 8, 1}, "
            f"int64[5] wide = {{{wide}}}, int64[4] flat = {{2, 8, 7, 8}}, "
            f"int64[3] merged = {{2, 7, 64}}> {{ r = Reshape (x, whole) "
            f"q = Transpose <perm = [0, 2, 1, 3]> (r) {heads} "
            "t = Transpose <perm = [0, 1, 3, 2]> (kr) s = MatMul (q, t) w = Softmax (s) "
            "a = MatMul (w, vr) b = Transpose <perm = [0, 2, 1, 3]> (a) y = Reshape (b, merged) }"
        ),
    )
    assert (outcome.operators == ["Attention"]) is (perm[3] == "2")
    shapes = {"x": (2, 7, 64), "k": (2, 7, 32), "v": (2, 7, 32)}
    assert agrees(outcome, feed(shapes))


@pytest.mark.parametrize(
    "views", ["kh = Reshape (k, one)", "ku = Reshape (k, ones) kh = Squeeze (ku, two)"]
)
def test_a_single_head_of_keys_needs_no_transpose(views: str) -> None:
    outcome = apply(
        FuseAttention(),
        text(
            "(float[2, 5, 32] x, float[2, 7, 8] k) => (float[2, 5, 32] y) "
            "<int64[4] split = {2, 5, 4, 8}, int64[4] one = {2, 1, 7, 8}, int64[1] two = {2}, "
            "int64[5] ones = {2, 1, 1, 7, 8}, int64[3] merged = {2, 5, 32}> "
            f"{{ r = Reshape (x, split) q = Transpose <perm = [0, 2, 1, 3]> (r) {views} "
            "t = Transpose <perm = [0, 1, 3, 2]> (kh) s = MatMul (q, t) w = Softmax (s) "
            "a = MatMul (w, kh) b = Transpose <perm = [0, 2, 1, 3]> (a) y = Reshape (b, merged) }"
        ),
    )
    assert outcome.operators == ["Attention"]
    assert attributes(outcome) == {"scale": 1.0, "q_num_heads": 4, "kv_num_heads": 1}
    assert agrees(outcome, feed({"x": (2, 5, 32), "k": (2, 7, 8)}))
