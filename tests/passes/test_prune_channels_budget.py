"""prune-channels: what a cut saves, told without building it, and how channels are shared out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from prune_nets import Net, attention, chain, depthwise, grouped, joined, shared

from graphopt.ir import infer_shapes, load, measure
from graphopt_passes.prune_channels.allocation import FLOOR, Ladder, allocate, cut_of, damages
from graphopt_passes.prune_channels.apply import cut_channels
from graphopt_passes.prune_channels.budget import TITLES, Budget, Quantity, amount
from graphopt_passes.prune_channels.groups import Cut, Group, find_groups, spread
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.listing import list_groups
from graphopt_passes.prune_channels.run import analyse

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def fixture(name: str) -> Callable[[], ir.Model]:
    def build() -> ir.Model:
        model = load(FIXTURES / f"{name}.onnx")
        infer_shapes(model)
        return model

    return build


def recurrent(kind: str, gates: int) -> Callable[[], ir.Model]:
    """Two layers in both directions over 7 steps, and a classifier at each of them."""

    def build() -> ir.Model:
        net = Net()
        x = net.linear(net.input("batch", 7, 4), 4, 8)
        x = net.node("Transpose", x, perm=[1, 0, 2])
        for inputs in (8, 12):
            w, r = net.weight(2, 6 * gates, inputs), net.weight(2, 6 * gates, 6)
            b = net.weight(2, 12 * gates)
            y = net.node(kind, x, w, r, b, hidden_size=6, direction="bidirectional")
            x = net.node("Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, 12))
        return net.build(net.linear(net.node("Transpose", x, perm=[1, 0, 2]), 12, 3))

    return build


MODELS: dict[str, Callable[[], ir.Model]] = {
    "chain": chain, "grouped": grouped, "depthwise": depthwise, "joined": joined,
    "shared": shared, "attention": attention, "rnn": recurrent("RNN", 1),
    "gru": recurrent("GRU", 3), "lstm": recurrent("LSTM", 4), "resnet": fixture("resnet"),
    "mobilenet": fixture("mobilenet"), "vit": fixture("vit"),
}  # fmt: skip


def random_cut(found: Labelling, groups: list[Group], seed: int) -> Cut:
    random = np.random.default_rng(seed)
    gone = np.zeros(len(found.atoms), dtype=bool)
    for group in groups:
        count = int(random.integers(len(group.blocks[0])))
        for block in group.blocks:
            gone[random.choice(block, count, replace=False)] = True
    return spread(found, gone)


def shape_integers(model: ir.Model) -> tuple[int, int]:
    """Elements and bytes of the integers that `model` holds."""
    constants = [value.const_value for value in model.graph.initializers.values()]
    constants += [
        node.attributes["value"].as_tensor()
        for node in model.graph
        if node.op_type == "Constant" and "value" in node.attributes
    ]
    integers = [t for t in constants if t is not None and t.dtype.is_integer()]
    return sum(t.size for t in integers), sum(t.nbytes for t in integers)


@pytest.mark.parametrize("name", MODELS)
def test_the_cost_of_a_cut_is_that_of_the_model_that_is_cut(name: str) -> None:
    model = MODELS[name]()
    found = analyse(model)
    groups = find_groups(found)
    before = measure(model)
    assert groups
    assert not before.unknown
    for seed in range(3):
        cut = random_cut(found, groups, seed)
        pruned = cut_channels(model, found, cut)
        after = measure(pruned)
        integers = np.subtract(shape_integers(pruned), shape_integers(model))
        surplus = {"macs": 0, "params": integers[0], "bytes": integers[1]}
        for quantity in TITLES:
            budget = Budget(model, found, groups, quantity)
            assert budget.whole == amount(before, quantity)
            assert budget.left(cut) == amount(after, quantity) - surplus[quantity], quantity


@pytest.mark.parametrize("quantity", TITLES)
def test_a_cut_in_steps_saves_what_it_saves_at_once(quantity: Quantity) -> None:
    model = joined()
    found = analyse(model)
    groups = find_groups(found)
    budget = Budget(model, found, groups, quantity)
    cut = random_cut(found, groups, 1)
    lengths, left = budget.full, float(budget.whole)
    for number, group in enumerate(groups):
        for place in np.nonzero(cut.gone[group.atoms])[0]:
            after = budget.without(number, np.eye(len(group.atoms))[place], lengths)
            left -= budget.saved(number, lengths, after)
            lengths = after
    assert left == budget.left(cut)


def test_the_parts_of_a_group_are_the_layers_that_shrink_with_it() -> None:
    model = chain()
    found = analyse(model)
    groups = find_groups(found)
    budget = Budget(model, found, groups, "macs")
    first, second, head = 36 * 10 * 27, 36 * 8 * 90, 3 * 8
    assert budget.parts() == [first + second, second + head]
    cut = cut_of(found, [Ladder.of(groups[0], scored(groups), 1)], [5])
    assert budget.parts(cut)[0] == (first + second) / 2
    assert budget.left(cut) == (first + second) / 2 + head


def test_the_table_has_the_same_parts_for_a_recurrent_layer() -> None:
    model = recurrent("LSTM", 4)()
    found = analyse(model)
    groups = find_groups(found)
    first, second = (7 * 2 * 24 * (width + 6) for width in (8, 12))
    table = list_groups(model, found, groups, {}, None)
    assert table["macs"] == 7 * 4 * 8 + first + second + 7 * 12 * 3
    before, lower, upper = (row["macs"] for row in table["groups"])
    assert before == 7 * 4 * 8 + 7 * 2 * 24 * 8  # W of the first layer
    assert lower == first + 7 * 2 * 24 * 12
    assert upper == second + 7 * 12 * 3
    budget = Budget(model, found, groups, "macs")
    assert budget.parts()[0] == 7 * 4 * 8 + first - 7 * 2 * 24 * 6


def scored(groups: list[Group]) -> dict[int, float]:
    atoms = [atom for group in groups for atom in group.atoms.tolist()]
    values = np.random.default_rng(0).random(len(atoms)).tolist()
    return dict(zip(atoms, values, strict=True))


def test_a_free_batch_counts_as_one_where_shapes_are_only_known_from_the_analysis() -> None:
    model = attention()
    for node in model.graph:
        for value in node.outputs:
            value.shape = None if not value.is_graph_output() else value.shape
    found = analyse(model)
    known = measure(attention()).macs
    assert Budget(model, found, find_groups(found), "macs").whole == known


@pytest.mark.parametrize(
    ("align", "kept"),
    [(1, (10, 9, 8, 7, 6, 5, 4, 3, 2)), (4, (10, 8, 4)), (8, (10, 8)), (10, (10,)), (16, (10, 8))],
)
def test_a_ladder_goes_down_to_the_floor_in_multiples(align: int, kept: tuple[int, ...]) -> None:
    groups = find_groups(analyse(chain()))
    scores = scored(groups)
    ladder = Ladder.of(groups[0], scores, align)
    assert ladder.kept == kept
    for step, count in enumerate(kept):
        gone = groups[0].atoms[ladder.gone(step)].tolist()
        assert (
            sorted(scores[atom] for atom in gone)
            == sorted(scores[atom] for atom in groups[0].atoms.tolist())[: 10 - count]
        )


def test_the_floor_is_of_what_a_group_had_in_the_beginning() -> None:
    groups = find_groups(analyse(chain()))
    assert Ladder.of(groups[0], scored(groups), 1, whole=30).kept == (10, 9, 8, 7, 6)


def test_blocks_lose_the_same_number_each() -> None:
    model = grouped()
    found = analyse(model)
    groups = find_groups(found)
    ladders = [Ladder.of(group, scored(groups), 1) for group in groups]
    cut = cut_of(found, ladders, [len(ladder.kept) - 1 for ladder in ladders])
    for group in groups:
        assert len({cut.count(block) for block in group.blocks}) == 1
    measure(cut_channels(model, found, cut))


def test_damage_grows_through_what_was_measured() -> None:
    groups = find_groups(analyse(chain()))
    ladder = Ladder.of(groups[0], scored(groups), 1)
    curve = damages(ladder, {2: 0.1, 5: 0.8, 8: 0.7})
    assert curve[[0, 2, 5, 8]] == pytest.approx([0, 0.1, 0.8, 0.8], rel=1e-9)
    assert (np.diff(curve) >= -1e-12).all()
    assert curve[1] == pytest.approx(0.1 * ladder.scores[1] / ladder.scores[2])
    assert curve[3] == pytest.approx(0.1 * 8 ** (1 / 3))
    assert np.isfinite(damages(ladder, {2: 0.1, 5: float("inf")})).all()
    assert damages(ladder, {2: 0.0, 5: 0.0}) == pytest.approx(np.zeros(9), abs=1e-8)


def test_the_group_that_does_less_damage_goes_first_and_the_goal_is_just_reached() -> None:
    model = chain()
    found = analyse(model)
    groups = find_groups(found)
    budget = Budget(model, found, groups, "macs")
    ladders = [Ladder.of(group, scored(groups), 1) for group in groups]
    for hurt in (0, 1):
        curves = [
            damages(ladder, {2: 1e-3, len(ladder.kept) - 1: 1.0 if n == hurt else 1e-2})
            for n, ladder in enumerate(ladders)
        ]
        cut = allocate(found, budget, ladders, curves, 0.6 * budget.whole)
        shares = [cut.count(group.atoms) / len(group.atoms) for group in groups]
        assert shares[hurt] > shares[1 - hurt]
        largest = max(
            budget.saved(n, budget.full, budget.without(n, ladder.gone(1), budget.full))
            for n, ladder in enumerate(ladders)
        )
        assert 0.6 * budget.whole - largest < budget.left(cut) <= 0.6 * budget.whole


def test_a_step_that_a_later_one_makes_needless_is_taken_back() -> None:
    """The cheap step comes first and saves too little; the large one alone is enough."""
    model = chain()
    found = analyse(model)
    groups = find_groups(found)
    budget = Budget(model, found, groups, "macs")
    ladders = [Ladder.of(group, scored(groups), 4) for group in groups]
    one = [budget.left(cut_of(found, ladders, [int(n == k) for n in (0, 1)])) for k in (0, 1)]
    large = int(one[1] < one[0])
    curves = [np.array([0, 1e-3, 1e3]), np.array([0, 1e-3, 1e3])]
    curves[large] = np.array([0, 1.0, 9.0])
    cut = allocate(found, budget, ladders, curves, one[large])
    lost = [len(group.atoms) - cut.count(group.atoms) for group in groups]
    assert budget.left(cut) <= one[large]
    assert lost[1 - large] == 0
    assert lost[large] == ladders[large].kept[0] - ladders[large].kept[1]


def test_no_group_falls_below_the_floor() -> None:
    model = chain()
    found = analyse(model)
    groups = find_groups(found)
    budget = Budget(model, found, groups, "params")
    ladders = [Ladder.of(group, scored(groups), 1) for group in groups]
    curves = [damages(ladder, {1: 1.0}) for ladder in ladders]
    cut = allocate(found, budget, ladders, curves, 0)
    assert [cut.count(group.atoms) for group in groups] == [2, 2]
    assert all(cut.count(g.atoms) >= FLOOR * len(g.atoms) for g in groups)
