"""Numbers that change from step to step: the learning rate and k.

A share of the steps is counted from the start, for a warm-up, or up to the end, for a
decay.
"""


def learning_rate(
    step: int, n_steps: int, *, peak: float, warmup: float, decay: float
) -> float:
    """The learning rate of a step, counted from 0: linear up, flat, linear down.

    >>> [learning_rate(step, 4, peak=1.0, warmup=0.5, decay=0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]

    Args:
        step: the step.
        n_steps: of the whole training.
        peak: the rate of the flat part.
        warmup: share of the steps, at the start, over which the rate rises from 0.
        decay: share of the steps, at the end, over which it falls to 0.
    """
    # At least one step, so that no share divides by 0.
    n_rising = max(1.0, warmup * n_steps)
    n_falling = max(1.0, decay * n_steps)
    rising = (step + 1) / n_rising
    falling = (n_steps - step) / n_falling
    return peak * min(1.0, rising, falling)


def active_features(
    step: int, n_steps: int, *, first: int, last: int, share: float
) -> int:
    """The k of a step, counted from 0: linear from ``first`` to ``last``, then flat.

    >>> [active_features(step, 8, first=9, last=3, share=0.5) for step in range(8)]
    [9, 8, 6, 5, 3, 3, 3, 3]

    Args:
        step: the step.
        n_steps: of the whole training.
        first: k of the first step.
        last: k at the end.
        share: share of the steps, at the start, over which k changes.
    """
    n_changing = share * n_steps
    if step >= n_changing:
        return last
    # Halves go up, where Python's round would take the even neighbour.
    return int(first + (last - first) * step / n_changing + 0.5)
