"""Speed and memory, beside a plain version of each: ``python -m benchmarks NAME``."""
