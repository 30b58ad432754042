"""Speed and memory, side by side with a plain version of the same thing. ``python -m benchmarks NAME``."""
