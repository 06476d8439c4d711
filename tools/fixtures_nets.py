"""The three nets that make_fixtures.py trains, and the recipe that each is trained with.

Each takes images of float32 [batch, 1, 28, 28] in [0, 1], normalizes them in the graph, and gives
logits [batch, 10]. They are written so that their export is as awkward as a user's:
BatchNormalization beside every convolution, sizes read from the input's shape, attention spelt out
in reshapes and transposes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 10
PIXEL_MEAN = 0.286  # of the training pixels in [0, 1]
PIXEL_STD = 0.353


def normalize(image: Tensor) -> Tensor:
    """Pixels in [0, 1] to about zero mean and unit variance; exported as Sub and Div."""
    return (image - PIXEL_MEAN) / PIXEL_STD


def conv_bn(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias and its BatchNorm, padded so that stride 1 keeps the size."""
    conv = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=False,
    )
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip (He et al. 2015), projected by a 1x1 where shapes differ."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn(channels_in, channels_out, 3, stride=stride)
        self.conv2 = conv_bn(channels_out, channels_out, 3)
        same = stride == 1 and channels_in == channels_out
        self.skip = nn.Identity() if same else conv_bn(channels_in, channels_out, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.relu(self.conv1(x)))
        return self.relu(branch + self.skip(x))


class ResNet(nn.Module):
    """A stem, four residual blocks (28x28 to 14x14 to 7x7), global average pool, one Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 16, 3), nn.ReLU())
        self.blocks = nn.Sequential(
            ResidualBlock(16, 32, stride=2),
            ResidualBlock(32, 32),
            ResidualBlock(32, 64, stride=2),
            ResidualBlock(64, 64),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.stem(normalize(image)))
        return self.classifier(torch.flatten(self.pool(x), 1))


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled map (Hu et al. 2017), with the hard sigmoid of MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.relu = nn.ReLU()
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, optional squeeze-excite, project 1x1 (Howard et al. 2019)."""

    def __init__(
        self,
        channels: tuple[int, int, int],
        kernel: int,
        activation: Callable[[], nn.Module],
        *,
        stride: int = 1,
        squeeze: bool = True,
    ) -> None:
        super().__init__()
        channels_in, hidden, channels_out = channels
        self.expand = nn.Sequential(conv_bn(channels_in, hidden, 1), activation())
        self.depthwise = nn.Sequential(
            conv_bn(hidden, hidden, kernel, stride=stride, groups=hidden), activation()
        )
        self.squeeze = SqueezeExcite(hidden) if squeeze else nn.Identity()
        self.project = conv_bn(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """A small MobileNetV3: five inverted residuals, of which four squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        hard_swish = nn.Hardswish
        self.stem = nn.Sequential(conv_bn(1, 16, 3), hard_swish())
        self.blocks = nn.Sequential(
            InvertedResidual((16, 32, 24), 3, nn.ReLU, stride=2, squeeze=False),
            InvertedResidual((24, 72, 24), 3, hard_swish),
            InvertedResidual((24, 96, 48), 5, hard_swish, stride=2),
            InvertedResidual((48, 192, 48), 3, hard_swish),
            InvertedResidual((48, 192, 48), 5, hard_swish),
        )
        self.head = nn.Sequential(conv_bn(48, 192, 1), hard_swish())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(192, 96), hard_swish(), nn.Linear(96, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(normalize(image))))
        return self.classifier(torch.flatten(self.pool(x), 1))


class ReluMobileNet(nn.Module):
    """The same with ReLU throughout and no gates: its channels can be rescaled in pairs.

    Not a fixture: `quantize_tasks.py` makes channels of it badly imbalanced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 16, 3), nn.ReLU())
        shapes = (((16, 32, 24), 2), ((24, 72, 24), 1), ((24, 96, 48), 2), ((48, 144, 48), 1))
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(channels, 3, nn.ReLU, stride=stride, squeeze=False)
                for channels, stride in shapes
            )
        )
        self.head = nn.Sequential(conv_bn(48, 128, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(normalize(image))))
        return self.classifier(torch.flatten(self.pool(x), 1))


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((query @ key.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class TransformerBlock(nn.Module):
    """A pre-norm block: attention, then an MLP with GELU, each with its skip."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2020): 49 patches of 4x4 and a class token."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, hidden: int = 192) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 50, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(normalize(image)).flatten(2).transpose(1, 2)
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([token, x], dim=1) + self.positions
        return self.classifier(self.norm(self.blocks(x))[:, 0])


class MLP(nn.Module):
    """Two hidden layers on the pixels, as Gemm and ReLU.

    Not a fixture: `bench_compensation.py` prunes it.
    """

    def __init__(self, hidden: tuple[int, int] = (256, 128)) -> None:
        super().__init__()
        first, second = hidden
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, CLASSES),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(normalize(image))


@dataclass(frozen=True)
class Recipe:
    """How one net is made: AdamW with a one-cycle schedule.

    Attributes:
        build: makes the untrained net.
        epochs: passes over the training images.
        rate: the highest learning rate.
        decay: AdamW's weight decay, for tensors of two dimensions and up.
        seed: of the weights, the order of the images and their flips.
    """

    build: Callable[[], nn.Module]
    epochs: int
    rate: float
    decay: float
    seed: int


RECIPES = {
    "resnet": Recipe(
        ResNet,
        epochs=4,
        rate=4e-3,
        decay=0.05,
        seed=1,
    ),
    "mobilenet": Recipe(
        MobileNet,
        epochs=4,
        rate=6e-3,
        decay=0.02,
        seed=2,
    ),
    "relu-mobilenet": Recipe(
        ReluMobileNet,
        epochs=2,
        rate=6e-3,
        decay=0.02,
        seed=4,
    ),
    "mlp": Recipe(
        MLP,
        epochs=4,
        rate=2e-3,
        decay=0.02,
        seed=5,
    ),
    "vit": Recipe(
        ViT,
        epochs=5,
        rate=2e-3,
        decay=0.05,
        seed=3,
    ),
}
