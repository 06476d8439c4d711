"""Winning back accuracy after quantization, layer by layer and without training."""

from graphopt_passes.quantize.recovery.recover import Recovery, Steps, recover

__all__ = ["Recovery", "Steps", "recover"]
