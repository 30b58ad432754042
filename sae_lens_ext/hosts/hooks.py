"""The hooks that users have on torch modules, and runs without them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from sae_lens_ext.hosts.eager import eager

# Hooks of these are part of how a model computes: a bridge forks its streams by hooks,
# and transformers collects hidden states.
_LIBRARIES = ("accelerate", "torch", "transformer_lens", "transformers")


def has_hooks(module: nn.Module) -> bool:
    """Whether a user, or a splice, has hooks in a module or in a part of it.

    Those that the libraries have for themselves do not count.
    """
    for part in module.modules():
        # A hook point lists its hooks, because torch shows only a wrapper of them.
        if getattr(part, "fwd_hooks", None):
            return True
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()):
            if _library_of(hook) not in _LIBRARIES:
                return True
    return False


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """While active, a model computes alone, and nothing that it does is left behind."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(eager())
        stack.enter_context(torch.random.fork_rng(_accelerators(module)))
        for part in module.modules():
            stack.enter_context(hooks_left_out(part, keep=_LIBRARIES))
        stack.enter_context(evaluating(module))
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While active, a model and all its parts are in eval mode."""
    in_training = [part for part in module.modules() if part.training]
    for part in in_training:
        part.training = False
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


@contextmanager
def hooks_left_out(module: nn.Module, keep: Sequence[str] = ()) -> Iterator[None]:
    """While active, hooks that ``module`` has are not called; new ones are.

    Hooks of the libraries in ``keep`` are called.
    """
    before = {}
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        hooks = module.__dict__[name]
        before[name] = hooks
        of_libraries = {
            number: hook for number, hook in hooks.items() if _library_of(hook) in keep
        }
        module.__dict__[name] = OrderedDict(of_libraries)
    try:
        yield
    finally:
        module.__dict__.update(before)


def _library_of(hook: object) -> str:
    """The name of the package that a hook comes from."""
    return str(getattr(hook, "__module__", "")).split(".")[0]


def _accelerators(module: nn.Module) -> list[int]:
    """The indices of the GPUs that hold parameters of a model."""
    devices = {parameter.device for parameter in module.parameters()}
    return sorted(device.index or 0 for device in devices if device.type == "cuda")
