"""Which modules of a block may be its attention, its MLP, or around them.

Families name the parts of their blocks in many ways. Names and classes only say what to
look at: ``branches`` decides by what the modules compute.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from sae_lens_ext.hosts.probe import Call

# Parts of the last name in a module's path, or of its class.
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe", re.IGNORECASE)
_MLP_CLASS = re.compile(r"MLP|FeedForward|FFN|MoE$|MoeBlock|SparseMoe")
# Names of a place where some blocks have attention, and others something else.
_MIXERS = ("mixer", "temporal_block")
_STATE_SPACES = ("mamba", "ssm")
# Classes that mix positions in the place of attention. (ShortConvolution, of Based, has
# the place and the role of it.)
_NOT_ATTENTION = re.compile(r"Mamba|SSM|Ssm|Recurrent(?:Block|Layer)|mLSTM|ShortConv$")
# Parts around attention and MLP, whatever else they are named after.
_AROUND = re.compile(r"norm|dropout|^drop|ln_", re.IGNORECASE)

Role = Literal["attention", "other mixer", "mlp"]


def role_of(call: Call) -> Role | None:
    """Whether a module is attention, something in its place, or an MLP; or None.

    By its name and its class.
    """
    name = call.path.rpartition(".")[2]
    class_name = class_of(call)
    if _AROUND.search(name) or _AROUND.search(class_name):
        return None

    if name in _STATE_SPACES or _NOT_ATTENTION.search(class_name):
        return "other mixer"
    if _ATTENTION.search(name) or _ATTENTION.search(class_name):
        return "attention"
    if _MLP.search(name) or _MLP_CLASS.search(class_name):
        return "mlp"
    return "attention" if name in _MIXERS else None


def with_followers(
    branch: Sequence[Call], other: Sequence[Call], calls: Sequence[Call]
) -> list[Call]:
    """Modules of a branch, those in them, and those behind them.

    The latter up to where the other branch begins.
    """
    candidates = {call.path: call for call in branch}
    for start in branch:
        # Where a branch adds the stream by itself, a module in it makes what is added.
        prefix = f"{start.path}."
        inside = {call.path: call for call in calls if call.path.startswith(prefix)}
        candidates |= inside

        ends = [call.order for call in other if call.order > start.order]
        end = min(ends, default=float("inf"))
        for call in calls:
            is_beside = _parent(call) == _parent(start) and role_of(call) is None
            if is_beside and start.order < call.order < end:
                candidates[call.path] = call
    return list(candidates.values())


def behind(start: Call, calls: Sequence[Call]) -> list[Call]:
    """The modules beside one that return after it."""
    return [
        call
        for call in calls
        if _parent(call) == _parent(start) and call.order > start.order
    ]


def origin(part: Call | None, branch: Sequence[Call]) -> Call | None:
    """The module of a branch that what it adds comes from.

    That is the module itself, the one that it is in, or the one before it.
    """
    if part is None:
        return None
    path = f"{part.path}."
    around = [call for call in branch if path.startswith(f"{call.path}.")]
    if around:
        return min(around, key=lambda call: call.path.count("."))
    earlier = [call for call in branch if call.order <= part.order]
    return max(earlier, key=lambda call: call.order, default=None)


def as_stream(call: Call, stream: Tensor) -> Call | None:
    """A call whose output has the axes of the stream; None where it cannot have them.

    Some modules put all rows and positions on one axis.
    """
    after = call.after
    has_size = after.numel() == stream.numel() and after.shape[-1:] == stream.shape[-1:]
    if not after.is_floating_point() or not has_size:
        return None
    return replace(call, after=after.view_as(stream))


def class_of(call: Call) -> str:
    """The name of a module's class."""
    return type(call.module).__name__


def _parent(call: Call) -> str:
    return call.path.rpartition(".")[0]
