"""The architectures that `export_models.py` writes: random weights, since the structure counts.

Everything that training would have moved away from its starting value is moved at random (scales
and statistics of normalizations, biases, layer scales): with zeros and ones in their place a wrong
fusion would not show in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from model_nets import GroupedQueries, LastState, UNet
from torch import nn

SEED = 20240
VOCABULARY = 1000
POSITIONS = 128


@dataclass(frozen=True)
class Example:
    """A net in evaluation mode and how to call it."""

    net: nn.Module
    args: tuple[torch.Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    """For each input its free axes and their symbols; the outputs follow from them."""
    dynamic_outputs: dict[str, dict[int, str]] = field(default_factory=dict)
    """The same for the outputs, which the older exporter has to be told."""


def _declare_missing_operators() -> None:
    """Lets torchvision be imported where its compiled part does not fit torch's build.

    Its Python part, all that timm needs, registers shape functions for two compiled operators.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[torch.library.Library] = []  # a Library's definitions live as long as it does


def randomize(net: nn.Module) -> None:
    """Moves the parameters and statistics of `net` that start as zeros or ones, in place."""
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif name == "gamma":  # a layer scale: 1e-6 would hide the whole branch
                nn.init.uniform_(parameter, 0.05, 0.15)
            elif "bias" in name and parameter.ndim == 1:
                nn.init.normal_(parameter, 0.0, 0.1)
        for name, statistic in module.named_buffers(recurse=False):
            if name == "running_mean":
                nn.init.normal_(statistic, 0.0, 0.2)
            elif name == "running_var":
                nn.init.uniform_(statistic, 0.5, 1.5)


def image_net(name: str, *, size: int = 224, dynamic: bool = False) -> Example:
    """A net of timm's: `image`, float32 [batch, 3, size, size], to `logits` [batch, 1000]."""
    _declare_missing_operators()
    import timm

    net = timm.create_model(name, pretrained=False, exportable=True)
    image = torch.randn(2 if dynamic else 1, 3, size, size)
    batch = {0: "batch"}
    return Example(
        net,
        (image,),
        ("image",),
        ("logits",),
        {"image": batch} if dynamic else {},
        {"logits": batch} if dynamic else {},
    )


def bert(attention: str) -> Example:
    """BERT with 2 layers of width 128: int64 `input_ids` and `attention_mask` [batch, sequence]."""
    _declare_missing_operators()
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=POSITIONS,
        attn_implementation=attention,
    )
    net = BertModel(config, add_pooling_layer=True)
    return _text(net, {"last_hidden_state": _BOTH, "pooler_output": {0: "batch"}})


def gpt2(attention: str) -> Example:
    """GPT-2 with 2 layers of width 128, no cache: `input_ids` and `attention_mask` to `logits`."""
    _declare_missing_operators()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=2,
        n_head=4,
        use_cache=False,
        attn_implementation=attention,
    )
    return _text(GPT2LMHeadModel(config), {"logits": _BOTH})


_BOTH = {0: "batch", 1: "sequence"}


def _text(net: nn.Module, outputs: dict[str, dict[int, str]]) -> Example:
    ids = torch.randint(0, VOCABULARY, (2, 16))
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 11:] = 0  # the second text is shorter
    return Example(
        _Text(net, tuple(outputs)),
        (ids, mask),
        ("input_ids", "attention_mask"),
        tuple(outputs),
        {"input_ids": _BOTH, "attention_mask": _BOTH},
        outputs,
    )


class _Text(nn.Module):
    """A net of transformers' with two tensors in and a tuple of tensors out."""

    def __init__(self, net: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.outputs = net, outputs

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.net(input_ids=ids, attention_mask=mask)
        return tuple(result[name] for name in self.outputs)


class _Tagger(nn.Module):
    """A label for each token: embedding, bidirectional LSTM, linear."""

    def __init__(self, hidden: int = 64, labels: int = 9) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 64)
        self.lstm = nn.LSTM(64, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, labels)

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.head(self.lstm(self.embedding(tokens))[0])


def lstm_tagger() -> Example:
    """int64 `tokens` [batch, sequence] to `scores` [batch, sequence, 9]."""
    both = {0: "batch", 1: "sequence"}
    return Example(
        _Tagger(),
        (torch.randint(0, VOCABULARY, (2, 12)),),
        ("tokens",),
        ("scores",),
        {"tokens": both},
        {"scores": both},
    )


def last_state() -> Example:
    """float32 `features` [2, 12, 16] to `logits` [2, 5]."""
    return Example(LastState(), (torch.randn(2, 12, 16),), ("features",), ("logits",))


def grouped_queries() -> Example:
    """`features`, float32 [2, 16, 64], to `outputs`, the same."""
    return Example(GroupedQueries(), (torch.randn(2, 16, 64),), ("features",), ("outputs",))


def unet() -> Example:
    """`image`, float32 [1, 3, 64, 64], to `logits` [1, 2, 64, 64]."""
    return Example(UNet(), (torch.randn(1, 3, 64, 64),), ("image",), ("logits",))


def shufflenet() -> Example:
    """A net of torchvision's."""
    _declare_missing_operators()
    from torchvision.models import shufflenet_v2_x1_0

    return Example(shufflenet_v2_x1_0(), (torch.randn(1, 3, 224, 224),), ("image",), ("logits",))


ARCHITECTURES: dict[str, Callable[[], Example]] = {
    "lstm_tagger": lstm_tagger,
    "lstm_last": last_state,
    "grouped_queries": grouped_queries,
    "unet": unet,
    "shufflenet_v2_x1_0": shufflenet,
    "ghostnet_100": partial(image_net, "ghostnet_100"),
    "bert_tiny": partial(bert, "eager"),
    "bert_tiny_sdpa": partial(bert, "sdpa"),
    "gpt2_tiny": partial(gpt2, "eager"),
    "mobilenetv2_100": partial(image_net, "mobilenetv2_100", dynamic=True),
    "regnety_002": partial(image_net, "regnety_002"),
    "convnext_atto": partial(image_net, "convnext_atto", dynamic=True),
    "mobilenetv3_large_100": partial(image_net, "mobilenetv3_large_100"),
    "efficientnet_b0": partial(image_net, "efficientnet_b0"),
    "vit_tiny_patch16_224": partial(image_net, "vit_tiny_patch16_224"),
    "mobilevit_s": partial(image_net, "mobilevit_s", size=256),
    "densenet121": partial(image_net, "densenet121", dynamic=True),
    "resnet18": partial(image_net, "resnet18", dynamic=True),
    "resnet50": partial(image_net, "resnet50"),
    "swin_tiny_patch4_window7_224": partial(image_net, "swin_tiny_patch4_window7_224"),
    "convnext_tiny": partial(image_net, "convnext_tiny"),
}
"""By name, the smaller ones first."""


def build(name: str) -> Example:
    """The net called `name`, the same bytes each time, in evaluation mode."""
    torch.manual_seed(SEED)
    example = ARCHITECTURES[name]()
    torch.manual_seed(SEED)
    randomize(example.net)
    example.net.eval()
    return example
