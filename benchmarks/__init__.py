"""Speed and memory, side by side with the plain definition of the same computation.

Run them by ``python -m benchmarks NAME``.
"""
