"""Which modules of a block add to the residual stream, seen in a run of the model.

Families name and arrange the parts of their blocks in many ways: a norm may follow
attention, the stream be added inside it, both read the same stream, a factor be in
between. So candidates are looked for by their names and classes, and accepted by what
they compute:

- the stream before a block + attention's output + the MLP's output is the stream after
  it,
- the heads of attention, multiplied by a matrix, are attention's output.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_lens_ext.hosts.names import Point
from sae_lens_ext.hosts.probe import BlockRun, Call
from sae_lens_ext.hosts.roles import (
    as_stream,
    behind,
    class_of,
    origin,
    role_of,
    with_followers,
)

BRANCH_POINTS: tuple[Point, ...] = ("attn_out", "mlp_out", "mlp_in", "z")
"""Points that are the input or output of a module inside of a block."""

# In units of a dtype's precision, of the norm of all that is added.
_ROUNDINGS = 2
# Of a fitted factor in half precision.
_FACTOR_TOLERANCE = 0.05


@dataclass(frozen=True)
class Branches:
    """The modules of one block whose input or output is a point of the block.

    Attributes:
        paths: the module's path in the block, by point.
        reasons: why there is none, for the other points.
    """

    paths: dict[Point, str] = field(default_factory=dict)
    reasons: dict[Point, str] = field(default_factory=dict)


def find_branches(block_run: BlockRun) -> Branches:
    """The branches of a block that ran."""
    before = block_run.before
    after = block_run.after
    if block_run.n_runs != 1 or before is None or after is None:
        return _none(f"the block ran {block_run.n_runs} times in one run")
    if before.ndim != 3 or before.shape != after.shape:
        return _none(
            f"the block maps {list(before.shape)} to {list(after.shape)}, and a stream "
            "is [batch, pos, d_model]",
        )

    calls = [as_stream(call, after) for call in block_run.calls.values()]
    calls = [call for call in calls if call is not None]
    attentions = [
        call for call in calls if role_of(call) in ("attention", "other mixer")
    ]
    mlps = [call for call in calls if role_of(call) == "mlp"]
    sums = _sums(before, after, calls, attentions, mlps)
    if not sums:
        names = sorted({class_of(call) for call in block_run.calls.values()})
        return _none(f"no attention or MLP was found among {', '.join(names)}")

    exact = [candidate for candidate in sums if candidate.is_exact]
    if not exact:
        # Of the modules that should be it.
        full = max(len(candidate.parts) for candidate in sums)
        whole = [candidate for candidate in sums if len(candidate.parts) == full]
        closest = min(whole, key=lambda candidate: candidate.error)
        return _none(closest.reason)

    # Of modules with one output, the last: dropout behind attention, for instance.
    least = min(candidate.error for candidate in exact)
    equal = [candidate for candidate in exact if candidate.error <= 2 * least]
    best = max(equal, key=lambda candidate: candidate.orders)
    return _of_sum(best, attentions, mlps, block_run)


@dataclass(frozen=True)
class _Sum:
    """A guess at what a block adds to its stream, and by how much that is wrong."""

    attention: Call | None
    mlp: Call | None
    error: float
    is_exact: bool

    @property
    def parts(self) -> list[Call]:
        return [part for part in (self.attention, self.mlp) if part is not None]

    @property
    def orders(self) -> tuple[int, ...]:
        """A key by which a sum of two parts is better than one, and a later later."""
        return (len(self.parts), *(part.order for part in self.parts))

    @property
    def reason(self) -> str:
        names = " + ".join(part.path for part in self.parts)
        return (
            f"the stream before the block + {names} differs from the stream after it "
            f"by {self.error:.2g} of what the block adds"
        )


def _sums(
    before: Tensor,
    after: Tensor,
    calls: Sequence[Call],
    attentions: Sequence[Call],
    mlps: Sequence[Call],
) -> list[_Sum]:
    """All sums that the roles of modules allow."""
    of_attention = with_followers(attentions, mlps, calls)
    of_mlp = with_followers(mlps, attentions, calls)
    pairs: list[tuple[Call | None, Call | None]] = []
    for attention in of_attention:
        # An MLP may be a few modules in the block itself.
        later = of_mlp or behind(attention, calls)
        pairs += [(attention, mlp) for mlp in later if mlp is not attention]
    # Some blocks of hybrid models have but one of them.
    if not mlps:
        pairs += [(attention, None) for attention in of_attention]
    if not attentions:
        pairs += [(None, mlp) for mlp in of_mlp]
    return [_sum(before, after, attention, mlp) for attention, mlp in pairs]


def _sum(
    before: Tensor, after: Tensor, attention: Call | None, mlp: Call | None
) -> _Sum:
    added = [part.after for part in (attention, mlp) if part is not None]
    residual = after.double() - before.double()
    for tensor in added:
        residual = residual - tensor.double()
    error = _norms(residual)

    precision = max(torch.finfo(tensor.dtype).eps for tensor in (before, after, *added))
    rounding = _ROUNDINGS * precision * sum(map(_norms, (before, *added)))
    is_rounding = bool((error <= rounding).all())

    # Rounding may hide all of a small addend, but not over many numbers: fitted to what
    # the block adds, each must have the factor 1.
    gain = (after.double() - before.double()).flatten().cpu()
    columns = torch.stack([tensor.double().flatten().cpu() for tensor in added], 1)
    factors = torch.linalg.lstsq(columns, gain.unsqueeze(1)).solution
    tolerance = _FACTOR_TOLERANCE if precision > 1e-4 else precision**0.5
    are_ones = bool(((factors - 1).abs() <= tolerance).all())

    share = error.norm().item() / max(gain.norm().item(), 1e-300)
    return _Sum(attention, mlp, share, is_rounding and are_ones)


def _of_sum(
    best: _Sum, attentions: Sequence[Call], mlps: Sequence[Call], block_run: BlockRun
) -> Branches:
    """The points of a block whose sum is exact."""
    branches = Branches()
    names = " and ".join(part.path for part in best.parts)
    nothing_else = f"the block adds nothing to the stream but the output of {names}"

    attention = origin(best.attention, attentions)
    if best.attention is None or attention is None:
        branches.reasons["attn_out"] = nothing_else
        branches.reasons["z"] = nothing_else
    elif role_of(attention) == "other mixer":
        reason = (
            f"{attention.path} of the block is a {class_of(attention)}, not attention"
        )
        branches.reasons["attn_out"] = reason
        branches.reasons["z"] = reason
    else:
        _set(branches, "attn_out", best.attention, block_run)
        mixing = _mixing(attention, best.attention, block_run.calls.values())
        if mixing is None:
            branches.reasons["z"] = (
                f"the {class_of(attention)} of the block has no heads: no module in "
                f"{attention.path} maps them to its output by a matrix"
            )
        else:
            branches.paths["z"] = mixing.path

    mlp = origin(best.mlp, mlps)
    if best.mlp is None:
        branches.reasons["mlp_out"] = nothing_else
        branches.reasons["mlp_in"] = nothing_else
        return branches
    _set(branches, "mlp_out", best.mlp, block_run)
    if mlp is None or mlp.before is None or mlp.before.ndim != 3:
        branches.reasons["mlp_in"] = "there the MLP is not one module that reads it"
    else:
        branches.paths["mlp_in"] = mlp.path
    return branches


def _set(branches: Branches, point: Point, call: Call, block_run: BlockRun) -> None:
    """Make a module's output a point, if its activations are those of a stream."""
    shape = block_run.calls[call.path].after.shape
    if shape == call.after.shape:
        branches.paths[point] = call.path
        return
    branches.reasons[point] = (
        f"the output of {call.path} is {list(shape)}, and an activation is [batch, "
        "pos, d]"
    )


def _mixing(attention: Call, added: Call, calls: Iterable[Call]) -> Call | None:
    """The module whose input are attention's heads: its output is all that comes out.

    It may come out of attention itself, or already be what is added, where attention
    adds the stream by itself. The outermost of such modules, as adapters wrap others.
    """
    mixing = None
    # Of Based, for instance: it mixes positions channel by channel.
    if "Conv" in class_of(attention):
        return None
    for call in calls:
        is_inside = call.path.startswith(f"{attention.path}.")
        if not is_inside or call.before is None or call.before.ndim != 3:
            continue
        is_output = any(
            call.after.shape == part.after.shape and _is_close(call.after, part.after)
            for part in (attention, added)
        )
        if is_output and _is_affine(call):
            mixing = call
    return mixing


def _is_affine(call: Call) -> bool:
    """Whether a module multiplies its input by a matrix, and does not only hand it on.

    Norms and gates are not affine: twice the input is not twice the output.
    """
    before = call.before
    assert before is not None
    if before.shape == call.after.shape and torch.equal(before, call.after):
        return False
    try:
        bias = call.module(torch.zeros_like(before))
        double = call.module(2 * before)
    # A module that needs more than its input is not a matrix.
    except Exception:
        return False
    if not isinstance(bias, Tensor) or not isinstance(double, Tensor):
        return False
    return _is_close(double - call.after, call.after - bias)


def _is_close(left: Tensor, right: Tensor) -> bool:
    # Products are sums of many terms, and round more than once.
    precision = max(torch.finfo(tensor.dtype).eps for tensor in (left, right))
    bound = 8 * precision * max(left.double().norm(), right.double().norm())
    return bool((left.double() - right.double()).norm() <= bound)


def _norms(tensor: Tensor) -> Tensor:
    return tensor.double().norm(dim=-1)


def _none(reason: str) -> Branches:
    return Branches(reasons=dict.fromkeys(BRANCH_POINTS, reason))
