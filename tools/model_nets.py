"""Small nets for `model_list.py` that no library has: what pruners stumble over."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as f


class UNet(nn.Module):
    """Three levels, with the encoder's features joined to the decoder's."""

    def __init__(self, width: int = 32, classes: int = 2) -> None:
        super().__init__()
        self.down1, self.down2 = _double(3, width), _double(width, 2 * width)
        self.bottom = _double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = _double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1 = _double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(f.max_pool2d(first, 2))
        x = self.bottom(f.max_pool2d(second, 2))
        x = self.join2(torch.cat([second, self.up2(x)], 1))
        x = self.join1(torch.cat([first, self.up1(x)], 1))
        logits: torch.Tensor = self.head(x)
        return logits


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class GroupedQueries(nn.Module):
    """Two blocks as in today's language models: RMS norms, rotary positions, grouped queries and a
    gated product of two linear layers; on feature vectors, for a table of words would hold more
    than all of that."""

    def __init__(self, features: int = 64, width: int = 128, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.norm = _RMSNorm(width)
        self.head = nn.Linear(width, features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        outputs: torch.Tensor = self.head(self.norm(x))
        return outputs


class _RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scaled * self.weight


class _Block(nn.Module):
    def __init__(self, width: int, heads: int = 8, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm1, self.norm2 = _RMSNorm(width), _RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, groups * self.size, bias=False)
        self.value = nn.Linear(width, groups * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attention(self.norm1(x))
        y = self.norm2(x)
        result: torch.Tensor = x + self.down(f.silu(self.gate(y)) * self.up(y))
        return result

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q = self.query(x).view(batch, length, self.heads, self.size).transpose(1, 2)
        k = self.key(x).view(batch, length, self.groups, self.size).transpose(1, 2)
        v = self.value(x).view(batch, length, self.groups, self.size).transpose(1, 2)
        angles = self._angles(length)
        q, k = _rotate(q, angles), _rotate(k, angles)
        repeats = self.heads // self.groups
        k, v = _repeat(k, repeats), _repeat(v, repeats)
        scores = (q @ k.transpose(2, 3)) / self.size**0.5
        mixed = scores.softmax(-1) @ v
        result: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return result

    def _angles(self, length: int) -> torch.Tensor:
        steps = 10000.0 ** (-torch.arange(0.0, self.size, 2.0) / self.size)
        return torch.cat([torch.outer(torch.arange(length, dtype=torch.float32), steps)] * 2, -1)


def _rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def _repeat(x: torch.Tensor, times: int) -> torch.Tensor:
    batch, groups, length, size = x.shape
    spread = x[:, :, None].expand(batch, groups, times, length, size)
    return spread.reshape(batch, groups * times, length, size)


class LastState(nn.Module):
    """A label for a sequence of feature vectors: linear, LSTM, linear on the last state."""

    def __init__(self, features: int = 16, hidden: int = 64, labels: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(features, hidden)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.lstm(torch.relu(self.embed(x)))[0]
        logits: torch.Tensor = self.head(states[:, -1])
        return logits
