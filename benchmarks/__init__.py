"""Speed and memory beside a plain version of the same: ``python -m benchmarks NAME``."""
