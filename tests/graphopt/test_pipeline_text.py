"""Pipeline text: what it means, that it prints back, and where it says that it is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt import GraphoptError, parse
from graphopt.options import Scanner, build, format_options, scan_options
from graphopt.pipeline.presets import PRESETS
from graphopt.pipeline.registry import find_pass, pass_names
from graphopt.pipeline.text import Repeat, check_order


@dataclass(frozen=True)
class Everything:
    """An option of every type."""

    flag: bool = False
    count: int = 1
    share: float = 0.5
    word: str = "plain"
    kind: Literal["minmax", "mse"] = "mse"
    names: tuple[str, ...] = ()
    numbers: tuple[float, ...] = (1.0,)
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


def read(text: str) -> Everything:
    scanner = Scanner(text)
    return build(Everything, scan_options(scanner), scanner, "it")


def test_values_of_every_type_with_commas_or_spaces() -> None:
    expected = Everything(True, 3, 1e-3, "a b", "minmax", ("x/y.*", "z"), (0.5, 2.0), 7)
    assert expected == read(
        '{flag=true, count=3,share=0.001 word="a b" kind=minmax '
        "names=[x/y.*, z] numbers=[0.5,2] limit=7}"
    )
    assert read("{limit=none}") == read("{}") == read("") == Everything()
    assert read("{names=one}").names == ("one",)


text = st.text(max_size=20)


@given(
    st.builds(
        Everything,
        flag=st.booleans(),
        count=st.integers(0, 10**12),
        share=st.floats(allow_nan=False),
        word=text,
        kind=st.sampled_from(["minmax", "mse"]),
        names=st.lists(text, max_size=3).map(tuple),
        numbers=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
        limit=st.none() | st.integers(),
    )
)
def test_any_options_print_back(options: Everything) -> None:
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    assert read(format_options(values)) == options


@given(st.text(alphabet='{}[]()=," \\abrepeat01', max_size=30))
def test_no_text_escapes_as_another_error(garbage: str) -> None:
    try:
        parsed = parse(garbage)
    except GraphoptError as error:
        assert str(error)
    else:
        assert parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{flag=yes}", "column 7 .*takes true or false, not 'yes'"),
        ("{count=1.5}", "column 8 .*takes a whole number, not '1.5'"),
        ("{share=much}", "takes a number, not 'much'"),
        ("{kind=mze}", "column 7 .*cannot be 'mze': did you mean 'mse'"),
        ("{cuont=1}", "column 2 .*no option 'cuont'; did you mean 'count'"),
        ("{count=1 count=2}", "column 10 .*'count' is given twice"),
        ("{count}", r"'=' expected after option 'count', found '}'"),
        ("{count=", "a value for 'count' expected, the text ends"),
        ("{count=[1]}", "takes one value, not a list"),
        ('{word="a', "the quoted string does not end"),
        ("{count=-1}", "count must not be negative"),
    ],
)
def test_a_wrong_option_is_told_with_its_column(wrong: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        read(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "fold-constants",
        "repeat(fold-constants,eliminate-dead)",
        "repeat{max=3}(fold-constants),fuse-affine",
        "prune-channels{ratio=0.25},quantize",
        "graphsurgeon{function=package.module:function}",
    ],
)
def test_a_pipeline_prints_back(line: str) -> None:
    assert str(parse(line)) == line
    assert parse(str(parse(line))) == parse(line)


def test_presets_stand_for_their_steps() -> None:
    for name, meaning in PRESETS.items():
        assert parse(name) == parse(meaning)
        check_order(parse(name))
    assert str(parse("lossless")) == f"repeat({PRESETS['simplify']},{PRESETS['fuse']})"
    step = parse("simplify").steps[0]
    assert isinstance(step, Repeat)
    with pytest.raises(GraphoptError, match="preset 'simplify' has no option 'max'"):
        parse("simplify{max=2}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "column 1 .*the name of a pass expected"),
        ("fold-constant", "no pass 'fold-constant'; did you mean 'fold-constants'"),
        ("prune{ratio=0.3}", "did you mean 'prune-blocks' or 'prune-channels'"),
        ("INT8", "did you mean 'int8'"),
        ("fold-constants,", "the name of a pass expected, the text ends"),
        ("fold-constants fuse-affine", "',' expected, found 'f'"),
        ("prune-channels{ration=0.3}", "did you mean 'ratio'"),
        ("prune-channels{ratio=2}", "ratio"),
        ("repeat(fold-constants", r"'\)' expected"),
        ("repeat{max=0}(fold-constants)", "max must be at least 1"),
        ("fold-constants{nonsense=1}", "no option 'nonsense'"),
        ("repeat(" * 2000, "nested too deeply"),
        ("quantize{exclude=" + "[" * 2000, "nested too deeply"),
        ("graphsurgeon{function=nope}", "must be module:function"),
        ("graphsurgeon", "needs option 'function'"),
    ],
)
def test_a_wrong_pipeline_is_told(wrong: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message) as caught:
        parse(wrong)
    assert "\n" not in str(caught.value)


def test_an_order_that_goes_back_is_refused_with_the_reason() -> None:
    with pytest.raises(GraphoptError, match=r"'fuse-affine' .*stands after 'quantize'"):
        check_order(parse("quantize,fuse-affine"))
    check_order(parse("fold-constants,graphsurgeon{function=a:b},fuse-affine"))


def test_every_registered_pass_describes_itself() -> None:
    for name in pass_names():
        cls = find_pass(name)
        assert cls.name == name
        assert re.match(r"^[a-z]+(-[a-z]+)*$", name)
        assert cls.__doc__
        assert cls.stage is not None
        assert cls.effect is not None
    with pytest.raises(GraphoptError, match="did you mean 'quantize'"):
        find_pass("quantise")
