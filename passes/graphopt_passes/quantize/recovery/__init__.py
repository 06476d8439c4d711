"""Winning back accuracy on the weights of a quantized model, without training."""
