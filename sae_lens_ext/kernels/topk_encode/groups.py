"""How ``compiled.py`` divides a row into groups; apart from it, to load no numba."""

DEPTH = 16
"""How many columns of a group one segment holds."""


def width(k: int) -> int:
    """How many groups there are: 2k, rounded up to whole vectors, and at least 64."""
    n_vectors = -(-2 * k // 32)
    return max(64, 32 * n_vectors)


def saves_work(n_columns: int, k: int) -> bool:
    """Whether rows are so long, for this k, that reading them twice is worth it."""
    segment = DEPTH * width(k)
    return n_columns >= segment
