from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.emit.tensorrt import DEFAULT_BATCH, parse_shapes
from graphopt.emit.tensorrt.shapes import InputSpec, profile_of
from graphopt.errors import GraphoptError


def spec(name: str, *dims: int | str | None) -> InputSpec:
    return InputSpec(
        name,
        tuple(dim if isinstance(dim, int) else -1 for dim in dims),
        tuple(dim if isinstance(dim, str) else None for dim in dims),
    )


def test_shapes_are_read() -> None:
    assert parse_shapes("image=1x1x28x28:8x1x28x28:32x1x28x28,other=4x5") == {
        "image": ((1, 1, 28, 28), (8, 1, 28, 28), (32, 1, 28, 28)),
        "other": ((4, 5), (4, 5), (4, 5)),
    }


def test_names_may_hold_colons_and_commas_and_blanks_are_free() -> None:
    assert parse_shapes(" x:0 = 1 x 2 , a,b=0:1:2") == {
        "x:0": ((1, 2),) * 3,
        "a,b": ((0,), (1,), (2,)),
    }


def test_shapes_are_read_as_trtexec_writes_them() -> None:
    assert parse_shapes("x:1x3x224x224,8x3x224x224,32x3x224x224") == {
        "x": ((1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224))
    }
    assert parse_shapes("x:0:1x2,4x2,8x2,b:7; c : 1,2,3") == {
        "x:0": ((1, 2), (4, 2), (8, 2)),
        "b": ((7,),) * 3,
        "c": ((1,), (2,), (3,)),
    }


names = st.text("abc/.:_0", min_size=1, max_size=6)
ranges = st.lists(st.tuples(*[st.integers(0, 99)] * 3).map(sorted), min_size=1, max_size=4).map(
    lambda axes: tuple(tuple(axis[i] for axis in axes) for i in range(3))
)


@given(st.dictionaries(names, ranges, min_size=1, max_size=3))
def test_what_is_written_is_read(shapes: dict[str, tuple[tuple[int, ...], ...]]) -> None:
    text = ",".join(
        f"{name}={':'.join('x'.join(map(str, shape)) for shape in three)}"
        for name, three in shapes.items()
    )
    assert parse_shapes(text) == shapes


@given(st.text())
def test_garbage_is_refused_or_read_but_never_breaks_it(text: str) -> None:
    with contextlib.suppress(GraphoptError):
        assert parse_shapes(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shapes: nothing is given; write it as image:"),
        ("image", "cannot read 'image'"),
        ("image=1x", "cannot read '1x'"),
        ("image=1x-3", "cannot read 'image=1x-3'"),
        ("image=bad,other=1x2", "cannot read 'image=bad,other=1x2'"),
        ("image:1x3,2x3", "shapes of 'image': 2 shapes are given; give the least"),
        ("image:4x3,2x3,8x3", "not in ascending order; give the least"),
        ("image=1x3:2x3", "2 shapes are given"),
        ("image=1:2:3:4", "4 shapes are given"),
        ("image=1x3:2x3:2", "shapes of 'image': the three shapes differ in rank"),
        ("image=4x3:2x3:8x3", "not in ascending order; give the least"),
        ("image=1,image=2", "'image' is given twice"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(GraphoptError) as raised:
        parse_shapes(text)
    assert message in str(raised.value)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 4), ((1, 3), (1, 3))])
def test_one_shape_where_three_belong_is_told(shape: Any) -> None:
    with pytest.raises(GraphoptError, match=r"shapes of 'a': .* is not three shapes; give the"):
        profile_of([spec("a", "n", 3)], {"a": shape})
    with pytest.raises(GraphoptError, match="shapes: cannot be of type list; give three shapes"):
        profile_of([spec("a", "n", 3)], [shape])  # type: ignore[arg-type]


def test_a_dynamic_first_axis_can_be_a_batch() -> None:
    inputs = [spec("a", "n", 3), spec("b", "n"), spec("c", None, 2), spec("d", 4)]
    assert profile_of(inputs, {}, batch=DEFAULT_BATCH) == {
        "a": ((1, 3), (8, 3), (32, 3)),
        "b": ((1,), (8,), (32,)),
        "c": ((1, 2), (8, 2), (32, 2)),
    }


def test_without_a_default_every_open_input_is_told() -> None:
    inputs = [spec("a", "n", 3), spec("b", "n"), spec("c", 4, "t"), spec("d", 4)]
    with pytest.raises(GraphoptError) as raised:
        profile_of(inputs, {})
    option = "a:1x3,8x3,32x3;b:1,8,32;c:4xt,4xt,4xt"
    assert f'--shapes "{option}"' in str(raised.value)
    a, c = ((1, 3), (2, 3), (4, 3)), ((4, 5),) * 3
    profile = profile_of(inputs, {"a": a, "c": c})
    assert profile == {"a": a, "b": ((1,), (2,), (4,)), "c": c}


def test_a_shared_name_is_a_shared_size() -> None:
    inputs = [spec("mask", "n", "t"), spec("ids", "n", "t")]
    ids = ((1, 16), (4, 64), (8, 128))
    assert profile_of(inputs, {"ids": ids}) == {"mask": ids, "ids": ids}
    # A name that is a batch somewhere is the same elsewhere, in whatever order they come.
    inputs = [spec("x", 3, "n"), spec("y", "n")]
    profile = profile_of(inputs, {}, batch=DEFAULT_BATCH)
    assert profile["x"] == ((3, 1), (3, 8), (3, 32))


@pytest.mark.parametrize(
    ("inputs", "given_shapes", "message"),
    [
        (
            [spec("x", "n", 3, None)],
            {},
            "axis 0 of input 'x' (nx3x?) is dynamic, its size unknown; give its least, optimal and "
            'greatest shape with --shapes "x:1x3x?,8x3x?,32x3x?"',
        ),
        ([spec("x", "n", "t")], {"y": ((1, 1),) * 3}, "the model has no input 'y'"),
        ([spec("x", "n", "t")], {"x": ((1,),) * 3}, "the input has 2 dimensions"),
        ([spec("x", "n", 3)], {"x": ((1, 4),) * 3}, "axis 1 of the input is fixed at 3"),
        ([spec("x", 3)], {"x": ((1,), (2,), (3,))}, "axis 0 of the input is fixed at 3"),
        (
            [spec("x", "n"), spec("y", "n")],
            {"x": ((1,),) * 3, "y": ((2,),) * 3},
            "shapes of 'y': axis 0 is 'n', which another input has with other numbers",
        ),
    ],
)
def test_contradictions_are_told(
    inputs: list[InputSpec], given_shapes: dict[str, object], message: str
) -> None:
    with pytest.raises(GraphoptError) as raised:
        profile_of(inputs, given_shapes)  # type: ignore[arg-type]
    assert message in str(raised.value)
