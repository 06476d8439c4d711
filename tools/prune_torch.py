"""Torch-Pruning on one net of `model_list.py`, checked; `bench_prune.py` starts it.

    python prune_torch.py '{"name": "resnet18", "ratios": [0.5], "result": "out.json"}'

The net as it comes: half of the channels by magnitude (L1, over the group), the last layer ignored,
nothing patched by hand. It is checked as prune-channels is: in a copy, what reads a cut channel
reads zeros, and norms over channels are over those that stay; the outputs have to be equal.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from model_list import build
from torch import nn
from torch_pruning.pruner import function

READERS = (
    function.prune_conv_in_channels,
    function.prune_linear_in_channels,
    function.prune_depthwise_conv_in_channels,
)


class MaskedNorm(nn.Module):
    """A LayerNorm over the features that stay; the others become zeros. timm's `LayerNorm2d` has
    its features on the second axis."""

    def __init__(self, norm: nn.LayerNorm, gone: list[int]) -> None:
        super().__init__()
        self.norm = norm
        self.axis = 1 if "2d" in type(norm).__name__.lower() else -1
        keep = torch.ones(norm.normalized_shape[-1], dtype=torch.bool)
        keep[gone] = False
        self.register_buffer("keep", keep.nonzero()[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.movedim(self.axis, -1)
        kept = x[..., self.keep]
        weight, bias = self.norm.weight[self.keep], self.norm.bias[self.keep]
        shape = (len(self.keep),)
        normed = nn.functional.layer_norm(kept, shape, weight, bias, self.norm.eps)
        whole = torch.zeros_like(x).index_copy(-1, self.keep, normed)
        return whole.movedim(-1, self.axis)


class Positions:
    """Which positions of the original a channel of the net that shrinks was."""

    def __init__(self) -> None:
        self._left: dict[tuple[nn.Module, bool], torch.Tensor] = {}
        self.gone: dict[tuple[nn.Module, bool], list[int]] = {}

    def take(self, module: nn.Module, reads: bool, size: int, places: list[int]) -> None:
        left = self._left.setdefault((module, reads), torch.arange(size))
        self.gone.setdefault((module, reads), []).extend(left[places].tolist())
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[places] = False
        self._left[module, reads] = left[keep]


def prune(net: nn.Module, inputs: tuple[torch.Tensor, ...], ratio: float) -> nn.Module:
    """Prunes `net` in place; a copy of the original in which the same channels are silenced."""
    silenced = copy.deepcopy(net)
    twins = {module: name for name, module in net.named_modules()}
    pruner = tp.pruner.BasePruner(
        net,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=ratio,
        ignored_layers=[_last(net)],
    )
    positions = Positions()
    for group in pruner.step(interactive=True):
        taken: dict[tuple[Any, bool], set[int]] = {}
        for dependency, places in group:
            module = dependency.target.module
            reads = dependency.handler in READERS
            if module in twins and (reads or isinstance(module, nn.LayerNorm)):
                taken.setdefault((module, reads), set()).update(places)
        for (module, reads), gone in taken.items():
            positions.take(module, reads, _size(module), sorted(gone))
        group.prune()
    for (module, _), places in positions.gone.items():
        _silence(silenced, twins[module], places)
    return silenced


def _size(module: Any) -> int:
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    size = module.in_channels if isinstance(module, nn.modules.conv._ConvNd) else module.in_features
    return int(size)


def _silence(net: nn.Module, name: str, gone: list[int]) -> None:
    module: Any = net.get_submodule(name)
    if isinstance(module, nn.LayerNorm):
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, MaskedNorm(module, gone))
    elif not isinstance(module, nn.modules.conv._ConvNd):
        with torch.no_grad():
            module.weight.index_fill_(1, torch.tensor(gone), 0.0)
    elif module.transposed:
        with torch.no_grad():
            module.weight.index_fill_(0, torch.tensor(gone), 0.0)
    elif module.groups < module.in_channels:
        inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
        with torch.no_grad():
            for channel in gone:
                group, place = divmod(channel, inputs)
                module.weight[group * outputs : (group + 1) * outputs, place] = 0.0


def _last(net: nn.Module) -> nn.Module:
    """The layer that makes the outputs."""
    return [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    else:
        for output in outputs:
            yield from _tensors(output)


def _difference(expected: Any, actual: Any) -> float:
    worst = 0.0
    for a, b in zip(_tensors(expected), _tensors(actual), strict=True):
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / a.abs().max()))
    return worst


def bench(name: str, ratios: list[float]) -> dict[str, Any]:
    example = build(name)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in example.args)
    macs, parameters = tp.utils.count_ops_and_params(example.net, example.args)
    report: dict[str, Any] = {"macs": macs, "parameters": parameters, "cuts": {}}
    for ratio in ratios:
        net = build(name).net.double()
        try:
            silenced = prune(net, inputs, ratio)
            with torch.no_grad():
                difference = _difference(silenced(*inputs), net(*inputs))
            left = tp.utils.count_ops_and_params(net, inputs)
            cut = {"macs": left[0], "parameters": left[1], "fp64": difference}
            if left[1] == parameters:
                cut = {"failure": "nothing was cut"}
        except Exception as error:  # noqa: BLE001 - another's program may fail in any way
            text = " ".join(str(error).split())
            cut = {"failure": f"{type(error).__name__}: {text}"[:200]}
        report["cuts"][str(ratio)] = cut
    return report


def main() -> None:
    torch.set_num_threads(1)
    request = json.loads(sys.argv[1])
    result = bench(request["name"], request["ratios"])
    Path(request["result"]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
