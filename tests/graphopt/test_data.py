"""Samples and evaluations: what is read, what is refused, and how batches are made."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from graphopt import GraphoptError
from graphopt.data.evaluation import as_evaluation, open_evaluation
from graphopt.data.feeds import InputSpec, batch_count, batches, input_specs
from graphopt.data.samples import as_samples, open_samples
from graphopt.progress import Quiet

FLOAT = np.dtype(np.float32)
FREE = (InputSpec("x", (None, 3), FLOAT),)
FIXED = (InputSpec("x", (4, 3), FLOAT),)
TWO = (InputSpec("a", (None, 2), FLOAT), InputSpec("b", (None,), np.dtype(np.int64)))
PICTURE = (InputSpec("x", (None, 3, 4, 6), FLOAT),)


def npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def rows(n: int, width: int = 3) -> np.ndarray:
    return np.arange(n * width, dtype=np.float32).reshape(n, width)


def test_npz_in_batches_of_any_size(tmp_path: Path) -> None:
    samples = open_samples(npz(tmp_path / "c.npz", x=rows(10)), FREE)
    assert samples.count() == 10
    assert samples.description == "c.npz (10 samples)"
    made = list(batches(samples, FREE, 4))
    assert [(feed["x"].shape, real) for feed, real in made] == [
        ((4, 3), 4),
        ((4, 3), 4),
        ((2, 3), 2),
    ]
    assert batch_count(samples, FREE, 4) == 3
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed, _ in made]), rows(10))
    assert [real for _, real in batches(samples, FREE, 4, limit=5)] == [4, 1]


def test_a_fixed_batch_is_filled_up_and_the_filling_is_counted_out(tmp_path: Path) -> None:
    samples = open_samples(npz(tmp_path / "c.npz", x=rows(6)), FIXED)
    (first, full), (last, real) = batches(samples, FIXED, 100)
    assert (first["x"].shape, full, last["x"].shape, real) == ((4, 3), 4, (4, 3), 2)
    np.testing.assert_array_equal(last["x"], rows(6)[[4, 5, 5, 5]])


def test_a_sample_axis_in_front_of_the_models_own(tmp_path: Path) -> None:
    specs = (InputSpec("x", (3,), FLOAT),)
    samples = open_samples(npz(tmp_path / "c.npz", x=rows(5)), specs)
    assert [feed["x"].shape for feed in samples] == [(3,)] * 5


def test_a_scalar_input(tmp_path: Path) -> None:
    specs = (InputSpec("x", (), FLOAT, batched=False),)
    samples = open_samples(npz(tmp_path / "c.npz", x=np.float32([1, 2])), specs)
    assert [(type(f["x"]), f["x"].shape, float(f["x"])) for f in samples] == [
        (np.ndarray, (), 1.0),
        (np.ndarray, (), 2.0),
    ]


def test_two_inputs_and_safe_casts(tmp_path: Path) -> None:
    text = npz(tmp_path / "c.npz", a=rows(4, 2).astype(np.float64), b=np.arange(4, dtype=np.int32))
    feed = next(iter(open_samples(text, TWO)))
    assert (feed["a"].dtype, feed["b"].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("arrays", "specs", "message"),
    [
        ({"y": rows(2)}, FREE, "the model has no such input"),
        ({"x": rows(2), "labels": rows(2)}, FREE, "'labels', but the model has no such input"),
        ({"a": rows(2, 2)}, TWO, "no array for the model's input 'b'"),
        ({"x": rows(2, 5)}, FREE, r"has shape \[1, 5\], but the model takes float32\[\?,3\]"),
        ({"x": np.zeros((2, 3, 1, 1))}, FREE, "but the model takes"),
        ({"a": rows(2, 2), "b": np.zeros(3, np.int64)}, TWO, "differ in their number of samples"),
        (
            {"a": rows(2, 2), "b": np.zeros(2)},
            TWO,
            "input 'b' is float64, but the model takes int64",
        ),
        ({"x": rows(0)}, FREE, "holds no samples"),
    ],
)
def test_data_that_does_not_fit_names_the_file_and_the_input(
    tmp_path: Path, arrays: dict, specs: tuple, message: str
) -> None:
    text = npz(tmp_path / "c.npz", **arrays)
    with pytest.raises(GraphoptError, match=message) as caught:
        open_samples(text, specs)
    assert "c.npz" in str(caught.value)


def test_files_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="no such file"):
        open_samples(str(tmp_path / "no.npz"), FREE)
    plain = r"is no file of plain numpy arrays; .* numpy\.savez\(FILE, INPUT=ARRAY\)$"
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(GraphoptError, match=plain):
        open_samples(str(tmp_path / "text.npz"), FREE)
    whole = Path(npz(tmp_path / "c.npz", x=rows(100)))
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(GraphoptError, match="is not a numpy file"):
        open_samples(str(whole), FREE)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(GraphoptError, match=plain):
        open_samples(str(tmp_path / "pickled.npy"), FREE)
    with pytest.raises(GraphoptError, match=r"no such file or folder; data is an .npz"):
        open_samples("what is this", FREE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GraphoptError, match=r"holds no .npy, .npz or image files"):
        open_samples(str(tmp_path / "empty"), FREE)


def test_a_folder_of_arrays_in_order_of_name(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        np.save(tmp_path / f"{index}.npy", rows(3)[index])
    samples = open_samples(str(tmp_path), FREE)
    (feed, real) = next(iter(batches(samples, FREE, 8)))
    np.testing.assert_array_equal(feed["x"], rows(3))
    assert real == 3
    with pytest.raises(GraphoptError, match="holds one array, but the model has 2 inputs"):
        open_samples(str(tmp_path), TWO)


def test_a_sample_with_a_longer_first_axis_is_fed_as_it_is(tmp_path: Path) -> None:
    """As for a recurrent net whose first axis is the sequence."""
    np.save(tmp_path / "a.npy", rows(5))
    np.save(tmp_path / "b.npy", rows(7))
    samples = open_samples(str(tmp_path), FREE)
    assert [feed["x"].shape for feed, _ in batches(samples, FREE, 8)] == [(5, 3), (7, 3)]


def test_a_folder_of_images_with_preprocessing(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0], pixels[0, 0] = 255, (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (feed,) = open_samples(str(tmp_path), PICTURE)
    assert feed["x"].shape == (1, 3, 4, 6)
    np.testing.assert_allclose(feed["x"][0, :, 0, 0], np.float32([10, 20, 30]) / 255, rtol=1e-6)
    text = f"{tmp_path}{{color=bgr, scale=1, mean=[1,2,3], std=[2,2,2]}}"
    (feed,) = open_samples(text, PICTURE)
    np.testing.assert_allclose(feed["x"][0, :, 0, 0], [(30 - 1) / 2, (20 - 2) / 2, (10 - 3) / 2])
    nhwc = (InputSpec("x", (1, 2, 2, 3), np.dtype(np.uint8)),)
    (feed,) = open_samples(f"{tmp_path}{{layout=nhwc, crop=2x2}}", nhwc)
    np.testing.assert_array_equal(feed["x"], pixels[1:3, 2:4][None])


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(GraphoptError, match="images fit a model with one input of four"):
        open_samples(str(tmp_path), TWO)
    with pytest.raises(GraphoptError, match="but the model takes"):
        open_samples(f"{tmp_path}{{color=gray}}", PICTURE)
    for size in ("big", "0x4", "²x2", "1000000x1000000"):
        with pytest.raises(GraphoptError, match="size must be WIDTHxHEIGHT"):
            open_samples(f"{tmp_path}{{size={size}}}", PICTURE)
    with pytest.raises(GraphoptError, match="must be finite"):
        open_samples(f"{tmp_path}{{scale=nan}}", PICTURE)
    with pytest.raises(GraphoptError, match="did you mean 'scale'"):
        open_samples(f"{tmp_path}{{scal=1}}", PICTURE)
    with pytest.raises(GraphoptError, match="and std not 0"):
        open_samples(f"{tmp_path}{{std=[1,0,1]}}", PICTURE)
    huge = b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 99999, 99999, 1, 24, *6 * [0])
    for content in (b"no picture", huge):
        (tmp_path / "0.bmp").write_bytes(content)
        with pytest.raises(GraphoptError, match=r"0\.bmp: is not an image"):
            open_samples(str(tmp_path), PICTURE)


def one_by_one() -> object:
    for row in rows(3):
        yield {"x": row}


def nothing() -> list:
    return []


def number() -> int:
    return 3


def test_a_python_function() -> None:
    samples = open_samples(f"{__name__}:one_by_one", FREE)
    assert samples.count() is None
    for _ in range(2):  # every iteration starts anew
        np.testing.assert_array_equal(np.concatenate([f["x"] for f in samples]), rows(3))
    with pytest.raises(GraphoptError, match="yielded no samples"):
        open_samples(f"{__name__}:nothing", FREE)
    with pytest.raises(GraphoptError, match="returned int, not samples"):
        open_samples(f"{__name__}:number", FREE)
    with pytest.raises(GraphoptError, match="has no function 'absent'"):
        open_samples(f"{__name__}:absent", FREE)
    with pytest.raises(GraphoptError, match="cannot be imported"):
        open_samples("no_such_module:f", FREE)
    with pytest.raises(GraphoptError, match=r"cannot be imported .*; write 'my:f'"):
        open_samples("my.py:f", FREE)


def test_samples_from_python_objects(tmp_path: Path) -> None:
    file = tmp_path / "c.npz"
    npz(file, x=rows(3))
    for source in (file, {"x": rows(3)}, one_by_one):
        samples = as_samples(source, FREE)
        np.testing.assert_array_equal(np.concatenate([f["x"] for f in samples]), rows(3))
        assert as_samples(samples, FREE) is samples
    assert as_samples(one_by_one, FREE).description == f"{__name__}:one_by_one"
    with pytest.raises(GraphoptError, match=r"the arrays given: .*'y'"):
        as_samples({"y": rows(3)}, FREE)
    with pytest.raises(GraphoptError, match="the arrays given: holds no samples"):
        as_samples({"x": rows(0)}, FREE)
    with pytest.raises(GraphoptError, match="samples cannot be of type ndarray; give text, a path"):
        as_samples(rows(3), FREE)  # type: ignore[arg-type]


def test_random_only_by_that_word_and_the_same_each_time() -> None:
    samples = open_samples("random{n=3,seed=5}", TWO)
    assert samples.is_random
    assert "random noise" in samples.description
    first, second = list(samples), list(samples)
    assert len(first) == 3
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])
        assert set(one["b"].tolist()) <= {0, 1}
    with pytest.raises(GraphoptError, match="n must be at least 1"):
        open_samples("random{n=0}", FREE)


def scores(feed: dict) -> dict:
    """A model that is right for class 1 and wrong elsewhere."""
    return {"y": np.tile(np.float32([0, 1, 0]), (len(feed["x"]), 1))}


def test_top1_on_labelled_data(tmp_path: Path) -> None:
    labels = np.array([1, 1, 0, 1])
    text = npz(tmp_path / "e.npz", x=rows(4), labels=labels)
    evaluation = open_evaluation(text, FREE)
    assert evaluation.metric == "top1"
    assert evaluation.score(scores, Quiet()) == 75.0
    fixed = open_evaluation(text, (InputSpec("x", (3, 3), FLOAT),))
    assert fixed.score(scores, Quiet()) == 75.0  # repeated samples do not count
    named = open_evaluation(text + "{output=z}", FREE)
    with pytest.raises(GraphoptError, match="no output 'z'"):
        named.score(scores, Quiet())
    for label in (3, -1):
        strange = npz(tmp_path / "s.npz", x=rows(4), labels=np.array([1, label, 0, 1]))
        with pytest.raises(GraphoptError, match=f"label {label} is none of the 3 classes"):
            open_evaluation(strange, FREE).score(scores, Quiet())


def good(predict: object) -> float:
    return float(predict(rows(2))["y"].sum())  # type: ignore[operator]


def bad(predict: object) -> str:
    return "fine"


def broken(predict: object) -> float:
    return float("nan")


def test_a_function_as_evaluation() -> None:
    evaluation = open_evaluation(f"{__name__}:good", (InputSpec("x", (2, 3), FLOAT),))
    assert evaluation.score(scores, Quiet()) == 2.0
    with pytest.raises(GraphoptError, match="returned str, not a number"):
        open_evaluation(f"{__name__}:bad", FREE).score(scores, Quiet())
    with pytest.raises(GraphoptError, match="returned nan"):
        open_evaluation(f"{__name__}:broken", FREE).score(scores, Quiet())
    direct = as_evaluation(good, (InputSpec("x", (2, 3), FLOAT),))
    assert (direct.score(scores, Quiet()), direct.metric) == (2.0, "good")
    assert as_evaluation(direct, FREE) is direct
    with pytest.raises(GraphoptError, match="an evaluation cannot be of type int; give text"):
        as_evaluation(3, FREE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": rows(4)}, "", "holds no array 'labels'"),
        ({"x": rows(4), "labels": np.zeros(3, int)}, "", "has 4 samples, but 'labels' has shape"),
        ({"x": rows(4), "labels": np.zeros(4, int)}, "{metric=top9}", "unknown metric 'top9'"),
    ],
)
def test_an_evaluation_that_does_not_fit(
    tmp_path: Path, arrays: dict, options: str, message: str
) -> None:
    with pytest.raises(GraphoptError, match=message):
        open_evaluation(npz(tmp_path / "e.npz", **arrays) + options, FREE)


def test_the_inputs_of_a_model() -> None:
    from models import MLP, model

    assert input_specs(model()) == (InputSpec("x", (None, 4), FLOAT),)
    negative = model()
    negative.graph.inputs[0].shape = ir.Shape([-1, 4])  # as Paddle writes a size that is free
    assert input_specs(negative) == (InputSpec("x", (None, 4), FLOAT),)
    overridable = MLP.replace("(float[batch, 4] x)", "(float[batch, 4] x, float[3] b)")
    assert [spec.name for spec in input_specs(model(overridable))] == ["x"]
    with pytest.raises(GraphoptError, match="input 'x'"):
        input_specs(
            model(
                '<ir_version: 9, opset_import: ["" : 17]> g (seq(float[2]) x) => (float[n] y) '
                "{ y = ConcatFromSequence <axis = 0> (x) }"
            )
        )


def raises() -> object:
    yield {"x": rows(1)}
    raise KeyError("lost")


def ragged() -> list:
    return [[[1.0, 2.0], [3.0]]]


def test_a_function_that_fails_is_blamed_by_name_and_line() -> None:
    samples = open_samples(f"{__name__}:raises", FREE)
    with pytest.raises(GraphoptError, match=r"raises: raised KeyError: 'lost' \(test_data.py:\d+"):
        list(samples)
    with pytest.raises(GraphoptError, match="ragged: raised ValueError"):
        open_samples(f"{__name__}:ragged", FREE)
    evaluation = open_evaluation(f"{__name__}:raises_at_once", FREE)
    with pytest.raises(GraphoptError, match="raised ZeroDivisionError"):
        evaluation.score(scores, Quiet())


def raises_at_once(predict: object) -> float:
    return 1 / 0


def test_a_module_that_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_a_module.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraphoptError, match="module 'half_a_module': raised SyntaxError"):
        open_samples("half_a_module:f", FREE)


def test_npz_members_that_are_no_arrays_or_broken(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("x", "hello")
    with pytest.raises(GraphoptError, match="'x' is no array"):
        open_samples(str(tmp_path / "raw.npz"), FREE)
    np.savez_compressed(tmp_path / "broken.npz", x=rows(500))
    content = bytearray((tmp_path / "broken.npz").read_bytes())
    content[80:400] = bytes(320)
    (tmp_path / "broken.npz").write_bytes(content)
    with pytest.raises(GraphoptError, match="is not a numpy file"):
        open_samples(str(tmp_path / "broken.npz"), FREE)


def test_bfloat16_comes_back_from_numpys_files(tmp_path: Path) -> None:
    specs = (InputSpec("x", (None, 3), np.dtype(ml_dtypes.bfloat16)),)
    text = npz(tmp_path / "c.npz", x=rows(2).astype(ml_dtypes.bfloat16))
    feed = next(iter(open_samples(text, specs)))
    assert feed["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(feed["x"].astype(np.float32), rows(2)[:1])


def test_outputs_without_a_row_per_sample_are_not_scored(tmp_path: Path) -> None:
    evaluation = open_evaluation(
        npz(tmp_path / "e.npz", x=rows(16), labels=np.zeros(16, int)), FREE
    )
    with pytest.raises(GraphoptError, match="no row for each of the 16 samples"):
        evaluation.score(lambda feed: {"y": np.zeros((1, 3), np.float32)}, Quiet())
    with pytest.raises(GraphoptError, match="top1 takes numbers"):
        evaluation.score(lambda feed: {"y": np.full((16, 3), "a")}, Quiet())
