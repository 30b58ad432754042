"""What a circuit is compared with: orders of other nodes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.circuits.alignment import Alignment
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.faithfulness.curve import Draw
from sae_lens_ext.circuits.integrated import Path, along_path
from sae_lens_ext.circuits.joint import gradients_at, moved_to
from sae_lens_ext.circuits.methods import STEPS, effects_by_site
from sae_lens_ext.circuits.quadrature import gauss_points
from sae_lens_ext.circuits.running.ablated import Ablation
from sae_lens_ext.circuits.running.keys import KeySpace
from sae_lens_ext.circuits.running.runner import CircuitRunner
from sae_lens_ext.circuits.running.sites import CoordinateNodes
from sae_lens_ext.circuits.runs import Recording, gradient_run, recorded_run
from sae_lens_ext.circuits.selection import Errors, ranked
from sae_lens_ext.circuits.table import ERROR, SiteTable, frame, joined
from sae_lens_ext.hosts import Site

Kind = tuple[str, bool, bool]
"""The site of a node, whether it is an error, and whether it is everywhere."""


def ordered(
    nodes: Any, spaces: Mapping[str, KeySpace], alignment: Alignment
) -> tuple[list[str], list[int]]:
    """The sites and keys of nodes in the order of their table."""
    sites = nodes["site"].tolist()
    keys = []
    for site, position, feature in zip(
        sites, nodes["position"], nodes["feature"].tolist(), strict=True
    ):
        keys.append(spaces[site].key(alignment.slot_of(position), feature))
    return sites, keys


def random_draws(
    circuit: Draw,
    active: Mapping[str, Tensor],
    spaces: Mapping[str, KeySpace],
    n_draws: int,
    seed: int,
) -> list[Draw]:
    """Active nodes in the place of those of a circuit, drawn without replacement.

    Every node is replaced by one of its kind: at its site, an error for an error, and
    everywhere for one that is everywhere. A kind of which there are too few runs out.

    Args:
        circuit: the circuit.
        active: the keys of active nodes of each site, with and without slot.
        spaces: the numbers of nodes.
        n_draws: how many orders to draw.
        seed: of the draws.
    """
    kinds = [
        _kind(site, key, spaces[site])
        for site, key in zip(circuit.sites, circuit.keys, strict=True)
    ]
    pools: dict[Kind, list[int]] = {}
    for site, keys in active.items():
        for key in keys.tolist():
            pools.setdefault(_kind(site, key, spaces[site]), []).append(key)

    generator = numpy.random.default_rng(seed)
    draws = []
    for number in range(n_draws):
        shuffled = {
            kind: iter(generator.permutation(pools.get(kind, [])).tolist())
            for kind in dict.fromkeys(kinds)
        }
        sites = []
        keys = []
        for kind in kinds:
            key = next(shuffled[kind], None)
            if key is not None:
                sites.append(kind[0])
                keys.append(int(key))
        draws.append(Draw(sites, keys, circuit.rows, number))
    return draws


def _kind(
    site: str,
    key: int,
    space: KeySpace,
) -> Kind:
    slot, feature = space.node(key)
    return site, feature == ERROR, slot == 0


def ranked_nodes(
    analysis: Analysis,
    runs: Runs,
    method: str,
    alignment: Alignment,
    errors: Errors,
) -> Any:
    """A function of rows that ranks the nodes of an analysis by their effects there.

    The effects are of one pass over all rows, which do not depend on each other.
    """
    sites, _ = effects_by_site(analysis, runs, method)
    tables = {name: SiteTable.of(effects) for name, effects in sites.items()}
    ks = {name: effects.k for name, effects in sites.items()}
    effects = frame(joined(tables, ks), tables)
    lengths = analysis.prompts.clean.lengths.tolist()

    def ranked_in(rows: Sequence[int]) -> Any:
        return ranked(effects, alignment, lengths, rows=rows, errors=errors)

    return ranked_in


def coordinate_runs(
    analysis: Analysis, sites: Iterable[Site], method: str
) -> tuple[Recording, Recording | None]:
    """The clean and the corrupted run with the activations at some sites."""
    sites = list(sites)
    clean_run = gradient_run if method == "attribution" else recorded_run
    prompts = analysis.prompts
    clean = clean_run(analysis.host, prompts.clean, sites, analysis.measurement)
    if prompts.corrupted is None:
        return clean, None
    corrupted = recorded_run(
        analysis.host, prompts.corrupted, sites, analysis.measurement
    )
    return clean, corrupted


def coordinate_nodes(
    site: Site,
    clean: Float[Tensor, "batch pos d"],
    corrupted: Float[Tensor, "batch pos d"] | None,
    mask: Tensor,
    ablation: Ablation,
) -> CoordinateNodes:
    """The coordinates of an activation, with their ablated values."""
    if ablation == "resample":
        assert corrupted is not None
        return CoordinateNodes(site, mask, corrupted)
    x_0 = torch.zeros_like(clean)
    if ablation == "mean":
        source = clean if corrupted is None else corrupted
        tokens = source[mask.to(source.device)].double()
        x_0 = tokens.mean(0).to(clean.dtype).expand_as(clean)
    return CoordinateNodes(site, mask, x_0)


def coordinate_effects(
    analysis: Analysis, clean: Recording, runner: CircuitRunner, method: str
) -> dict[str, Float[Tensor, "batch pos d"]]:
    """The effects of coordinates, by the name of their site; see ``circuits.effects``.

    Args:
        analysis: the model, the rows and the metric.
        clean: the clean run, for ``"attribution"`` with gradients.
        runner: its sites are coordinates.
        method: by which gradient effects are taken.
    """
    if method == "joint":
        return _joint_effects(analysis, runner)
    effects = {}
    for name, nodes in runner.sites.items():
        assert isinstance(nodes, CoordinateNodes)
        x = clean.activations[nodes.site]
        if method == "attribution":
            gradient = clean.gradients[nodes.site]
        else:
            path = Path(x, nodes.x_0, nodes.mask.to(x.device))
            along = along_path(analysis, nodes.site, path, clean.values, STEPS[method])
            gradient = along.gradient
        effects[name] = (x.double() - nodes.x_0.double()) * gradient.double()
    return effects


def _joint_effects(
    analysis: Analysis, runner: CircuitRunner
) -> dict[str, Float[Tensor, "batch pos d"]]:
    steps: dict[Site, Tensor] = {}

    def move_at(nodes: CoordinateNodes) -> Callable[[Tensor, float], Tensor]:
        def move(x: Tensor, share: float) -> Tensor:
            steps[nodes.site] = (x.detach() - nodes.x_0).double()
            return moved_to(x, nodes.x_0, nodes.mask, share)

        return move

    moves = {}
    for nodes in runner.sites.values():
        assert isinstance(nodes, CoordinateNodes)
        moves[nodes.site] = move_at(nodes)
    totals: dict[Site, Tensor] = {}
    for share, weight in gauss_points(STEPS["joint"]):
        for site, gradient in gradients_at(analysis, moves, share).items():
            part = weight * gradient.double() * steps[site]
            totals[site] = part if site not in totals else totals[site] + part
    return {name: totals[nodes.site] for name, nodes in runner.sites.items()}


def coordinate_order(
    analysis: Analysis,
    clean: Recording,
    runner: CircuitRunner,
    method: str,
    chosen_on: tuple[int, ...],
    rows: tuple[int, ...],
    n_nodes: int,
) -> Draw:
    """The coordinates of the largest mean effects, in the order of ``ranked``.

    Args:
        analysis: the model, the rows and the metric.
        clean: the clean run, for ``"attribution"`` with gradients.
        runner: its sites are coordinates.
        method: by which gradient effects are taken.
        chosen_on: the rows to take the mean over.
        rows: the rows to test on.
        n_nodes: how many coordinates to take.
    """
    of_sites = coordinate_effects(analysis, clean, runner, method)
    scores = []
    for name, nodes in runner.sites.items():
        effects = of_sites[name]
        mask = nodes.mask.to(effects.device)
        of_rows = torch.zeros_like(mask)
        of_rows[list(chosen_on)] = mask[list(chosen_on)]
        space = next(iter(runner.spaces.values()))
        sums = effects.new_zeros(space.n_slots, effects.shape[-1])
        slots = runner.slots.to(effects.device)
        sums.index_add_(0, slots[of_rows], effects[of_rows] / len(chosen_on))
        scores.append(sums.cpu())

    # One list of all sites, in which every site has a stretch.
    flat = torch.cat([score.flatten() for score in scores])
    ends = numpy.cumsum([score.numel() for score in scores])
    order = flat.abs().argsort(descending=True, stable=True)[:n_nodes].numpy()
    site_numbers = numpy.searchsorted(ends, order, side="right")
    names = list(runner.sites)
    sites = []
    keys = []
    for number, place in zip(site_numbers.tolist(), order.tolist(), strict=True):
        width = scores[number].shape[1]
        start = ends[number] - scores[number].numel()
        slot, coordinate = divmod(int(place - start), width)
        sites.append(names[number])
        keys.append(runner.spaces[names[number]].key(slot, coordinate))
    return Draw(sites, keys, rows)
