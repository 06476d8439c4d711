"""Running a model: sessions, intermediate tensors, differences, latency."""
