"""Between the state of a training and a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.training.checkpoints.random_states import random_states
from sae_lens_ext.training.checkpoints.store import Checkpoint, in_parts
from sae_lens_ext.training.optimizer import (
    initialize_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from sae_lens_ext.training.parallel import copy_into
from sae_lens_ext.training.state import Best, TrainState
from sae_lens_ext.training.stream import SiteStatistics, StreamState


def captured(
    state: TrainState,
    statistics: Mapping[str, SiteStatistics],
    stream: StreamState,
    metrics_size: int,
) -> Checkpoint:
    """A checkpoint of a training; its tensors are not copied.

    Args:
        state: of the training.
        statistics: the constants of the sites.
        stream: the state of the stream.
        metrics_size: bytes of the file of metrics that belong to it.
    """
    random_tensors, random_facts = random_states()
    objective_tensors, objective_facts = _objective_state(state.objective)
    site_tensors = {
        f"{name}.{site}": tensor
        for site, constants in statistics.items()
        for name, tensor in constants._asdict().items()
    }
    tensors = {
        "weights": state.sae.weights(),
        "optimizer": optimizer_tensors(state.optimizer, state.sae),
        "statistics": site_tensors,
        "stream": stream.tensors,
        "objective": objective_tensors,
        "random": {**random_tensors, "trainer": state.generator.get_state()},
        "counters": {"idle": state.activity.idle, "losses": state.losses.tensor()},
    }
    facts = {
        "step": state.step,
        "tokens": state.n_tokens,
        "seconds": state.seconds,
        "recorded_step": state.recorded_step,
        "best": state.best,
        "metrics_size": metrics_size,
        "stream": stream.facts,
        "objective": objective_facts,
        "random": random_facts,
    }
    return Checkpoint(tensors, facts)


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Put a new training into the state of a checkpoint.

    The stream and the random states that the process shares are restored apart: a run
    that is finished needs neither.

    Raises:
        FormatError: a checkpoint of another training, or a damaged one.
    """
    tensors, facts, sharded = checkpoint
    try:
        if sharded is None:
            restore_optimizer(state.optimizer, state.sae, tensors["optimizer"])
            _copy_weights(state, tensors["weights"])
        else:
            _read_parts(state, sharded)

        state.activity.idle.copy_(tensors["counters"]["idle"])
        state.activity.n_tokens = int(facts["tokens"])
        state.losses.restore(tensors["counters"]["losses"])
        state.generator.set_state(tensors["random"]["trainer"])
        state.seconds = float(facts["seconds"])
        state.recorded_step = int(facts["recorded_step"])
        state.best = None if facts["best"] is None else Best(*facts["best"])
        _restore_objective(state.objective, tensors["objective"], facts["objective"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"it is not a checkpoint of this run ({error})") from error

    if state.step != facts["step"]:
        raise FormatError(
            f"a checkpoint of step {facts['step']} has {state.step} losses"
        )


def statistics_of(checkpoint: Checkpoint) -> dict[str, SiteStatistics]:
    """The constants of the sites."""
    tensors = checkpoint.tensors["statistics"]
    first = SiteStatistics._fields[0]
    sites = [
        name.removeprefix(f"{first}.")
        for name in tensors
        if name.startswith(f"{first}.")
    ]
    return {
        site: SiteStatistics(
            *(tensors[f"{name}.{site}"] for name in SiteStatistics._fields)
        )
        for site in sites
    }


def stream_state_of(checkpoint: Checkpoint) -> StreamState:
    """Where the stream stood."""
    return StreamState(checkpoint.facts["stream"], checkpoint.tensors["stream"])


@torch.no_grad()
def _copy_weights(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    weights = state.sae.weights()
    if weights.keys() != tensors.keys():
        raise FormatError(f"it holds {', '.join(tensors)}, not {', '.join(weights)}")
    # Copied into, since the optimizer holds these very tensors.
    for name, weight in weights.items():
        if weight.shape != tensors[name].shape:
            raise FormatError(f"{name} has another shape")
        copy_into(weight, tensors[name])


def _read_parts(state: TrainState, folder: Path) -> None:
    """Read the parts of this process into its weights and averages."""
    from sae_lens_ext.training.checkpoints.sharded import read_sharded

    initialize_optimizer(state.optimizer, state.sae)
    groups = {
        "weights": state.sae.weights(),
        "optimizer": optimizer_tensors(state.optimizer, state.sae),
    }
    read_sharded(folder, in_parts(groups))


def _objective_state(objective: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the other values of an objective that has a state."""
    if not hasattr(objective, "state_dict"):
        return {}, {}
    values = objective.state_dict()
    tensors = {
        name: value for name, value in values.items() if isinstance(value, Tensor)
    }
    facts = {name: value for name, value in values.items() if name not in tensors}
    return tensors, facts


def _restore_objective(
    objective: Any, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    if hasattr(objective, "load_state_dict"):
        objective.load_state_dict({**facts, **tensors})
