"""Train the fixture nets on Fashion-MNIST and write them, with their data, as graphopt's fixtures.

    python tools/make_fixtures.py                        # everything: 25 minutes, one thread
    python tools/make_fixtures.py --nets vit             # the data and one net
    python tools/make_fixtures.py --nets none            # the data and the README, no training
    python tools/make_fixtures.py --quick --out FOLDER   # a short training, to try the tool

Training needs torch; `--nets none` needs only numpy, onnx and onnxruntime. The images come from
Debian's package dataset-fashion-mnist. One thread and fixed seeds: the same machine and the same
torch give the same bytes again; another processor adds floats in another order, and trains
slightly different weights.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from fixtures_data import HELD_OUT, Splits, npz, read_splits, write
from fixtures_report import NETS, measure, predict, write_readme

if TYPE_CHECKING:
    import torch
    from fixtures_nets import Recipe

DATA = Path("/usr/share/datasets/fashion-mnist")
OUT = Path(__file__).resolve().parent.parent / "fixtures"
OPSET = 17
TOLERANCE = 1e-4
BATCH = 128
QUICK_STEPS = 300


def train(name: str, recipe: Recipe, splits: Splits, *, quick: bool) -> torch.nn.Module:
    """One net, trained on one thread from its recipe's seed; returned in evaluation mode."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    net = recipe.build().to(memory_format=torch.channels_last).train()
    images, labels = torch.from_numpy(splits.train.image), torch.from_numpy(splits.train.label)
    per_epoch = len(labels) // BATCH
    steps = QUICK_STEPS if quick else recipe.epochs * per_epoch
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.rate, total_steps=steps, pct_start=0.25
    )
    started = time.monotonic()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(labels))
        chosen = order[step % per_epoch * BATCH :][:BATCH]
        flip = torch.rand(BATCH, 1, 1, 1) < 0.5
        batch = torch.where(flip, images[chosen].flip(3), images[chosen])
        loss = functional.cross_entropy(net(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - started
            line = f"{name}: step {step + 1}/{steps}, loss {loss.item():.3f}, {spent:.0f} s"
            print(line, flush=True)
    return net.eval().to(memory_format=torch.contiguous_format)


def export(net: torch.nn.Module) -> onnx.ModelProto:
    """The net as a user's raw export: nothing fused, nothing folded, a dynamic batch."""
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the older exporter is meant
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 28, 28),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.graph.ClearField("doc_string")
    for node in model.graph.node:
        node.ClearField("doc_string")  # torch may put a stack trace with the machine's paths there
    return model


def check(name: str, model: onnx.ModelProto, net: torch.nn.Module, images: np.ndarray) -> None:
    """Stop unless the model is valid, raw, free of machine paths, and agrees with the net."""
    import torch

    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    for folder in (Path.cwd(), Path.home(), Path(sys.prefix), Path(torch.__file__).parent):
        if len(folder.parts) > 1 and str(folder).encode() in data:
            sys.exit(f"{name}: the exported model names the folder {folder}")
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    expected = sum(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    if len(norms) != expected:
        sys.exit(f"{name}: {len(norms)} BatchNormalization nodes exported, {expected} expected")
    for node in norms:
        training = any(a.name == "training_mode" and a.i for a in node.attribute)
        if training or len(node.output) != 1:
            sys.exit(f"{name}: {node.name} was exported in training mode")
    for batch in (1, 7):
        with torch.no_grad():
            wanted = net(torch.from_numpy(images[:batch])).numpy()
        for optimized in (False, True):
            got = predict(data, images[:batch], optimized=optimized)
            error = float(np.abs(got - wanted).max())
            if got.shape != wanted.shape or not error <= TOLERANCE:
                sys.exit(f"{name}: batch {batch} is {error:.2e} off torch (limit {TOLERANCE})")
            print(f"{name}: batch {batch}, optimized={optimized}: {error:.1e} off torch")


def make_net(name: str, splits: Splits, out: Path, *, quick: bool) -> None:
    """Train, export, check and write one net."""
    from fixtures_nets import RECIPES

    net = train(name, RECIPES[name], splits, quick=quick)
    model = export(net)
    check(name, model, net, splits.held_out.image)
    write(out / f"{name}.onnx", model.SerializeToString())
    logits = predict(model.SerializeToString(), splits.held_out.image)
    accuracy = float((logits.argmax(1) == splits.held_out.label).mean())
    print(f"{name}: written, top-1 {accuracy:.4f} on the {HELD_OUT} held-out training images")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train and write graphopt's fixtures.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the .gz files")
    parser.add_argument("--out", type=Path, help="folder to write to (fixtures/, but not --quick)")
    parser.add_argument("--nets", default=",".join(NETS), help="names by commas, or 'none'")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps; needs --out")
    options = parser.parse_args()
    options.nets = [] if options.nets == "none" else options.nets.split(",")
    unknown = [name for name in options.nets if name not in NETS]
    if unknown:
        parser.error(f"unknown net {unknown[0]!r}; known: {', '.join(NETS)}")
    if options.quick and options.out is None:
        parser.error("--quick needs --out, so that it does not overwrite the real fixtures")
    options.out = options.out or OUT
    return options


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    splits = read_splits(options.data)
    evaluation = splits.evaluation
    write(options.out / "calib.npz", npz({"image": splits.calibration}))
    write(options.out / "eval.npz", npz({"image": evaluation.image, "labels": evaluation.label}))
    for name in options.nets:
        make_net(name, splits, options.out, quick=options.quick)
    missing = [name for name in NETS if not (options.out / f"{name}.onnx").is_file()]
    if missing:
        print(f"no README.md written: {', '.join(missing)} not made yet")
        return
    print(write_readme(options.out, measure(options.out, splits.test)))


if __name__ == "__main__":
    main()
