"""From the processes that ``torchrun`` has started to those that share a training."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.objectives import HierarchicalTopK, MultiTopK, Shareable, TopK
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.parallel.ranks import ALONE, Ranks
from sae_lens_ext.training.run_config import RunConfig

# Those that only encode and decode what they encoded.
_ON_SLICES = (HierarchicalTopK, MultiTopK, TopK)


def n_processes() -> int:
    """How many processes were started together, by ``torchrun`` or by hand."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    # torchrun sets both; other launchers may set the second for their own ends.
    if "RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_of_rank(device: torch.device) -> torch.device:
    """The GPU of this process, where ``device`` says only that it is to be one."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def joined(
    config: TrainConfig, run: RunConfig, device: torch.device
) -> Iterator[Ranks]:
    """The processes that share a training, from its beginning to its end.

    torch.distributed is initialised where the caller has not done so, and ended then.

    Args:
        config: of the training.
        run: its ``parallel`` says what is shared.
        device: where this process trains.

    Raises:
        InvalidArgument: the training cannot be shared so.
        RankLost: another process has ended.
    """
    if run.parallel == "none" or n_processes() == 1:
        yield ALONE
        return
    check_shareable(config, run)

    if device.type == "cuda":
        torch.cuda.set_device(device)
    is_ours = not torch.distributed.is_initialized()
    store = _initialised(device) if is_ours else _store_of_caller()
    # Imports of torch.distributed take time, which one process does without.
    from sae_lens_ext.training.parallel.group import Group

    group = Group(device, store)
    is_broken = False
    try:
        yield _ranks(group, config, run)
    except BaseException as error:
        is_broken = True
        group.leave(error)
        raise
    finally:
        group.close(is_broken=is_broken)
        if is_ours:
            torch.distributed.destroy_process_group()


@contextlib.contextmanager
def shared(ranks: Ranks, *streams: object) -> Iterator[None]:
    """Share the work of streams that can share it.

    Args:
        ranks: the processes.
        streams: streams, or anything else.
    """
    if ranks is ALONE:
        yield
        return
    from sae_lens_ext.training.parallel.data import DataRanks

    assert isinstance(ranks, DataRanks)
    shareable: list[Any] = [each for each in streams if hasattr(each, "share")]
    for stream in shareable:
        stream.share(ranks.group)
    try:
        yield
    finally:
        for stream in shareable:
            stream.share(None)


def check_shareable(config: TrainConfig, run: RunConfig) -> None:
    """Check that several processes can share a training.

    Raises:
        InvalidArgument: they cannot; the message names the setting.
    """
    objective = config.objective
    name = type(objective).__name__
    inner = getattr(objective, "objective", objective)
    if not isinstance(objective, Shareable) or not isinstance(inner, Shareable):
        raise InvalidArgument(
            f"the objective {name} cannot be trained by several processes, because it "
            "does not say how it works on a share of a batch; give it the method "
            "use_batch of sae_lens_ext.objectives.Shareable, or use one process"
        )
    if run.parallel != "dictionary":
        return
    if type(objective) not in _ON_SLICES:
        names = ", ".join(kind.__name__ for kind in _ON_SLICES)
        raise InvalidArgument(
            f"parallel='dictionary' trains the objectives {names}; got {name}; "
            "parallel='data' trains it"
        )
    if config.freeze_decoder:
        raise InvalidArgument(
            "freeze_decoder=True needs parallel='data': the norms of a frozen decoder "
            "are not divided between processes"
        )
    if config.eight_bit:
        raise InvalidArgument(
            "eight_bit=True needs parallel='data': averages in 8 bits cannot be "
            "divided between processes"
        )


def _ranks(group: Any, config: TrainConfig, run: RunConfig) -> Ranks:
    if run.parallel == "dictionary":
        # DTensor takes seconds to import.
        from sae_lens_ext.training.parallel.dictionary import DictionaryRanks

        return DictionaryRanks(group, config.d_sae)
    from sae_lens_ext.training.parallel.data import DataRanks

    return DataRanks(group)


def _initialised(device: torch.device) -> Any:
    """Initialise torch.distributed as the launcher says; the store of the processes."""
    base, rank, size = _rendezvous()
    store = _of_this_training(base)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=size
    )
    return store


def _store_of_caller() -> Any:
    from sae_lens_ext.training.parallel.roll_call import store_of_launcher

    store = store_of_launcher()
    return None if store is None else _of_this_training(store)


def _of_this_training(store: Any) -> Any:
    """The part of a store that belongs to this call of ``train``."""
    _Calls.number += 1
    prefix = f"sae_lens_ext/{_Calls.number}"
    distributed: Any = torch.distributed
    return distributed.PrefixStore(prefix, store)


class _Calls:
    """What outlives a training that this process shares.

    Attributes:
        number: how many trainings were shared; the same on all processes.
        rendezvous: what the launcher told this process: a store, a rank, their number.
    """

    number = 0
    rendezvous: tuple[Any, int, int] | None = None


def _rendezvous() -> tuple[Any, int, int]:
    """The store of the launcher, which this process may have to keep alive."""
    # Not functools.cache: nnsight cannot pack such a function with a trace.
    if _Calls.rendezvous is not None:
        return _Calls.rendezvous
    distributed: Any = torch.distributed
    try:
        found: tuple[Any, int, int] = next(distributed.rendezvous("env://"))
    except ValueError as error:
        raise InvalidArgument(
            f"RANK and WORLD_SIZE say that this is one of several processes, and "
            f"{error}; start them by torchrun, or unset RANK"
        ) from error
    _Calls.rendezvous = found
    return found
