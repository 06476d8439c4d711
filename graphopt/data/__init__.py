"""Where calibration and evaluation samples come from, and the metrics over them."""
