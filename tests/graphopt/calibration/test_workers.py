"""Where samples run makes no difference to the bit: threads, processes, a Dask cluster."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model as parse
from observed import NAMES, NET, samples, state

from graphopt.calibration import collect, collect_channels, workers
from graphopt.data.arrays import ArrayFolder
from graphopt.data.feeds import Feed, Samples, input_specs
from graphopt.errors import GraphoptError, ToleranceError

CONV = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[batch, 3, 40, 40] x) => (float[batch, 10] y)
{
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = MatMul (f, v)
}
"""
TENSORS = ["x", "r", "f", "y"]
NUMBER = 13


def convolution() -> ir.Model:
    """Sums of 27 and 32 products, whose last bits depend on their order."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((32, 3, 3, 3)), "v": rng.standard_normal((32, 10))}
    proto = onnx.parser.parse_model(CONV)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()
    )
    return ir.from_proto(proto)


IMAGES = np.random.default_rng(1).standard_normal((NUMBER, 3, 40, 40)).astype(np.float32)


class Generated:
    """A source that cannot be divided, nor its number be known."""

    is_random = False
    description = "a generator"

    def __init__(self, fails_at: int = NUMBER) -> None:
        self._fails_at = fails_at

    def __iter__(self) -> Iterator[Feed]:
        for index, image in enumerate(IMAGES):
            if index == self._fails_at:
                raise GraphoptError("the disk is gone", where="a generator")
            yield {"x": image[np.newaxis]}

    def count(self) -> None:
        return None


def sources(net: ir.Model, folder: Path) -> list[Samples]:
    """One that is in memory, one that is read in pieces, one that comes one by one."""
    for index, image in enumerate(IMAGES):
        np.save(folder / f"{index:02}.npy", image)
    return [samples(net, IMAGES), ArrayFolder(folder, input_specs(net)), Generated()]


def states(found: dict[str, Any]) -> dict[str, object]:
    return {name: state(statistic) for name, statistic in found.items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The backend of a local cluster of two workers, processes of their own."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield f"dask={running.scheduler_address}"


BUDGET = 600_000
"""Of r, the largest tensor, a sample is 205 kB: batches of two."""


@pytest.mark.parametrize("place", ["processes", "dask"])
def test_processes_and_dask_find_the_same_to_the_bit(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where: dict[str, Any] = {"jobs": 2}
    if place == "dask":
        where = {"backend": request.getfixturevalue("cluster")}
    net = convolution()
    one, *others = sources(net, tmp_path)
    expected = states(collect(net, TENSORS, one, budget=BUDGET))
    assert expected == states(collect(net, TENSORS, others[0], budget=BUDGET))
    for source in (one, *others):
        assert states(collect(net, TENSORS, source, budget=BUDGET, **where)) == expected
    axes = {"r": 1, "f": -1}
    alone = states(collect_channels(net, axes, one, budget=BUDGET))
    for source in (one, *others):
        assert states(collect_channels(net, axes, source, budget=BUDGET, **where)) == alone


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_the_limit_holds_wherever_samples_run(limit: int, tmp_path: Path) -> None:
    net = convolution()
    wanted = min(limit, NUMBER)
    for source in sources(net, tmp_path):
        assert collect(net, ["f"], source, limit=limit)["f"].size == wanted * 32
    folder = ArrayFolder(tmp_path, input_specs(net))
    assert collect(net, ["f"], folder, limit=limit, jobs=2)["f"].size == wanted * 32


@pytest.mark.parametrize("budget", [1 << 20, 1])
def test_batches_and_groups_in_processes(budget: int) -> None:
    net = parse(NET)
    data = np.random.default_rng(0).standard_normal((70, 4)).astype(np.float32)
    alone = collect(net, NAMES, samples(net, data), budget=budget)
    found = collect(net, NAMES, samples(net, data), budget=budget, jobs=2)
    assert states(found) == states(alone)


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_come_from_where_they_happen(jobs: int, tmp_path: Path) -> None:
    net = parse(NET)
    bad = np.ones((40, 4), np.float32)
    bad[35, 1] = np.nan
    with pytest.raises(GraphoptError, match="tensor 'a': takes NaN on the calibration data"):
        collect(net, ["a"], samples(net, bad), jobs=jobs)
    with pytest.raises(GraphoptError, match="a generator: the disk is gone"):
        collect(convolution(), ["f"], Generated(fails_at=7), budget=1, jobs=jobs)
    for name in ("0.npy", "1.npy"):
        np.save(tmp_path / name, np.ones(4, np.float32))
    (tmp_path / "1.npy").write_bytes(b"not an array")
    with pytest.raises(GraphoptError, match=r"1\.npy: is no file of plain numpy arrays"):
        collect(net, ["a"], ArrayFolder(tmp_path, input_specs(net)), jobs=jobs)


def test_errors_reach_us_from_dask(cluster: str) -> None:
    net = parse(NET)
    bad = np.full((3, 4), np.inf, np.float32)
    with pytest.raises(GraphoptError, match="tensor 'a': takes an infinite value"):
        collect(net, ["a"], samples(net, bad), backend=cluster)


class Deadly:
    """A sample that ends the process that unpacks it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


def test_a_process_that_dies_is_told_in_one_line() -> None:
    net = parse(NET)

    class Source(Generated):
        def __iter__(self) -> Iterator[Feed]:
            yield {"x": np.ones((1, 4), np.float32)}
            yield {"x": np.ones((1, 4), np.float32), "deadly": Deadly()}  # type: ignore[dict-item]

    with pytest.raises(GraphoptError, match="a calibration process died"):
        collect(net, ["a"], Source(), budget=1, jobs=2)
    assert collect(net, ["a"], samples(net, np.ones((2, 4), np.float32)), jobs=2)["a"].size == 8


def test_no_such_backend_or_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.2)
    net = parse(NET)
    data = samples(net, np.ones((2, 4), np.float32))
    with pytest.raises(GraphoptError, match=r"unknown backend 'spark'; known: dask=ADDRESS"):
        collect(net, ["a"], data, backend="spark")
    with pytest.raises(GraphoptError, match=r"'dask=tcp://127.0.0.1:9': no Dask scheduler answers"):
        collect(net, ["a"], data, backend="dask=tcp://127.0.0.1:9")
    with pytest.raises(GraphoptError, match=r"'dask=what://x': no Dask scheduler answers"):
        collect(net, ["a"], data, backend="dask=what://x")


def test_dask_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    net = parse(NET)
    with pytest.raises(GraphoptError, match=r"needs the package distributed; pip install"):
        collect(net, ["a"], samples(net, np.ones((2, 4), np.float32)), backend="dask=x")


@pytest.mark.parametrize("kind", [GraphoptError, ToleranceError])
def test_an_error_travels_whole(kind: type[GraphoptError]) -> None:
    error = pickle.loads(pickle.dumps(kind("is bad", where="here", fix="do this")))
    assert type(error) is kind
    assert str(error) == "here: is bad; do this"
