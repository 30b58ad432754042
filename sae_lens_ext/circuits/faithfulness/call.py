"""The test of a circuit and of its controls, in one call."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.alignment import Align, Alignment
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.circuit_nodes import CircuitNodes
from sae_lens_ext.circuits.faithfulness.controls import (
    coordinate_nodes,
    coordinate_order,
    coordinate_runs,
    ordered,
    random_draws,
    ranked_nodes,
)
from sae_lens_ext.circuits.faithfulness.curve import (
    CIRCUIT,
    Curves,
    Draw,
    are_ascending,
    powers_up_to,
)
from sae_lens_ext.circuits.faithfulness.result import Faithfulness, Measured
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.methods import STEPS
from sae_lens_ext.circuits.metrics import is_flat_at_clean
from sae_lens_ext.circuits.prompts import clean_and_corrupted
from sae_lens_ext.circuits.running.ablated import ABLATIONS, Ablation
from sae_lens_ext.circuits.running.active import active_keys, everywhere
from sae_lens_ext.circuits.running.of_circuit import analysis_of, runner_of
from sae_lens_ext.circuits.running.runner import CircuitRunner
from sae_lens_ext.circuits.runs import Recording
from sae_lens_ext.circuits.selection import checked_rows
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import Site
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs

CONTROLS = ("random", "coordinates", "splits")


@dataclass(frozen=True, eq=False)
class Options:
    """What is done in a test beside running the circuit; see ``tested``."""

    ablation: Ablation
    budgets: tuple[int, ...]
    controls: tuple[str, ...]
    neurons: tuple[str, ...]
    other_saes: tuple[SAEs, ...]
    n_draws: int
    seed: int
    batch_size: int

    @classmethod
    def of(
        cls,
        circuit: CircuitNodes,
        *,
        has_corrupted: bool,
        ablation: Any,
        budgets: Any,
        controls: Any,
        neurons: Any,
        other_saes: Any,
        n_draws: Any,
        seed: Any,
        batch_size: Any,
    ) -> "Options":
        """Check what a user passes.

        Raises:
            InvalidArgument: an invalid option.
        """
        n_nodes = len(circuit.nodes)
        sizes = powers_up_to(n_nodes)
        if budgets is not None:
            sizes = arguments.integers(budgets, "budgets", at_least=1)
        if not sizes or max(sizes) > n_nodes or not are_ascending(sizes):
            raise InvalidArgument(
                f"budgets must be ascending numbers of nodes up to {n_nodes}, which "
                "this circuit has; "
                f"got {described(budgets)}: select a larger circuit for a "
                "longer curve"
            )
        lists = {"controls": controls, "neurons": neurons, "other_saes": other_saes}
        for name, value in lists.items():
            if not isinstance(value, list | tuple):
                raise InvalidArgument(f"{name} must be a list; got {described(value)}")
        return cls(
            checked_ablation(ablation, has_corrupted=has_corrupted),
            sizes,
            tuple(arguments.choice(name, "controls", CONTROLS) for name in controls),
            tuple(arguments.string(name, "neurons") for name in neurons),
            tuple(other_saes),
            arguments.positive_int(n_draws, "n_draws"),
            arguments.integer(seed, "seed", at_least=0),
            arguments.positive_int(batch_size, "batch_size"),
        )


def checked_ablation(ablation: Any, *, has_corrupted: bool) -> Ablation:
    """What nodes outside of a circuit are set to; by default what effects compare with.

    Raises:
        InvalidArgument: not an ablation, or one that needs a corrupted run.
    """
    if ablation is None:
        return "resample" if has_corrupted else "zero"
    arguments.choice(ablation, "ablation", ABLATIONS)
    if ablation == "resample" and not has_corrupted:
        raise InvalidArgument(
            "ablation='resample' takes values from the corrupted run, and there is "
            "none; pass corrupted=, or choose 'zero' or 'mean'"
        )
    return ablation


def tested(
    circuit: CircuitNodes,
    model: Any,
    clean: Any,
    corrupted: Any,
    *,
    metric: Metric,
    rows: Any,
    chosen_on: Any,
    align: Align,
    positions: Positions,
    **options: Any,
) -> Faithfulness:
    """Run a circuit and its controls; see ``Circuit.faithfulness``."""
    # Here, so that a missing package is reported before any work is done.
    require("pandas", "Circuit.faithfulness")
    clean, corrupted = clean_and_corrupted(clean, corrupted)
    checked = Options.of(circuit, has_corrupted=corrupted is not None, **options)

    # Tensors of inference mode, in which users may call this, take no gradients.
    with torch.inference_mode(False):
        analysis, alignment = analysis_of(
            circuit,
            model,
            clean,
            corrupted,
            metric=metric,
            align=align,
            positions=positions,
        )
        n_rows = len(analysis.prompts.clean)
        numbers = checked_rows(rows, n_rows)
        choosing = numbers
        if chosen_on is not None:
            choosing = checked_rows(chosen_on, n_rows, "chosen_on")
        test = _Test(circuit, analysis, alignment, numbers, choosing, checked)
        measured = tuple(test.measured())
    return Faithfulness(checked.ablation, measured, checked.seed)


class _Test:
    """A circuit and its controls on the rows of an analysis."""

    def __init__(
        self,
        circuit: CircuitNodes,
        analysis: Analysis,
        alignment: Alignment,
        rows: tuple[int, ...],
        chosen_on: tuple[int, ...],
        options: Options,
    ) -> None:
        self._circuit = circuit
        self._analysis = analysis
        self._alignment = alignment
        self._rows = rows
        self._chosen_on = chosen_on
        self._options = options
        self._method = _method(circuit.method, analysis.measurement.metric)

        need_gradients = not {"splits", "coordinates"}.isdisjoint(options.controls)
        self._runs = analysis.runs(
            with_gradients=need_gradients and self._method == "attribution"
        )
        self._check_rows()
        self._curves = Curves(
            options.budgets,
            self._runs.clean.logits,
            self._runs.clean.values,
            options.ablation,
            options.batch_size,
        )

    def measured(self) -> Iterator[Measured]:
        """The circuit first, then the controls."""
        options = self._options
        runner = self._runner(self._analysis, self._runs)
        sites, keys = ordered(self._circuit.nodes, runner.spaces, self._alignment)
        circuit = Draw(sites, keys, self._rows)
        yield from self._curves.measured(CIRCUIT, runner, [circuit])

        if "random" in options.controls:
            draws = self._random(circuit, runner)
            yield from self._curves.measured("random", runner, draws)
        if "splits" in options.controls:
            yield from self._curves.measured("splits", runner, self._splits(runner))
        if "coordinates" in options.controls:
            places = self._analysis.placed.items()
            masks = {place.site: self._analysis.masks[name] for name, place in places}
            # These runs have recorded the same sites.
            recordings = (self._runs.clean, self._runs.corrupted)
            yield from self._of_coordinates("coordinates", masks, recordings)
        if options.neurons:
            masks = self._neuron_masks()
            recordings = coordinate_runs(self._analysis, masks, self._method)
            yield from self._of_coordinates("neurons", masks, recordings)
        for number, saes in enumerate(options.other_saes):
            yield from self._of_other_saes(f"other_saes[{number}]", saes)

    def _random(self, circuit: Draw, runner: CircuitRunner) -> list[Draw]:
        active = active_keys(
            self._analysis,
            self._runs,
            runner,
            self._alignment,
            self._rows,
        )
        pools = {
            name: torch.cat([keys, everywhere(keys, runner.spaces[name])]).unique()
            for name, keys in active.items()
        }
        return random_draws(
            circuit,
            pools,
            runner.spaces,
            self._options.n_draws,
            self._options.seed,
        )

    def _splits(self, runner: CircuitRunner) -> list[Draw]:
        """Circuits that are chosen on half of the rows, for the other half."""
        ranked_in = ranked_nodes(
            self._analysis,
            self._runs,
            self._method,
            self._alignment,
            self._circuit.errors,
        )
        generator = numpy.random.default_rng(self._options.seed)
        draws = []
        for number in range(self._options.n_draws):
            shuffled = generator.permutation(self._rows).tolist()
            n_chosen = len(shuffled) // 2
            nodes = ranked_in(shuffled[:n_chosen]).head(self._options.budgets[-1])
            sites, keys = ordered(nodes, runner.spaces, self._alignment)
            draws.append(Draw(sites, keys, tuple(sorted(shuffled[n_chosen:])), number))
        return draws

    def _of_coordinates(
        self,
        kind: str,
        masks: dict[Site, Any],
        recordings: tuple[Recording, Recording | None],
    ) -> Iterator[Measured]:
        """Circuits of coordinates of the activations at some sites."""
        analysis = self._analysis
        clean, corrupted = recordings
        nodes = {
            site.name: coordinate_nodes(
                site,
                clean.activations[site],
                None if corrupted is None else corrupted.activations[site],
                mask,
                self._options.ablation,
            )
            for site, mask in masks.items()
        }
        runner = CircuitRunner.of(analysis, nodes, self._alignment)
        order = coordinate_order(
            analysis,
            clean,
            runner,
            self._method,
            self._chosen_on,
            self._rows,
            self._options.budgets[-1],
        )
        yield from self._curves.measured(kind, runner, [order])

    def _neuron_masks(self) -> dict[Site, Any]:
        """The tokens at the sites of neurons: those of any SAE of the circuit."""
        analysis = self._analysis
        masks = torch.stack([mask.cpu() for mask in analysis.masks.values()])
        return {
            analysis.host.site(name): masks.any(dim=0) for name in self._options.neurons
        }

    def _of_other_saes(self, kind: str, saes: SAEs) -> Iterator[Measured]:
        """A circuit of the features of other SAEs."""
        analysis = self._analysis.with_saes(saes, self._circuit.ks)
        runs = analysis.runs(with_gradients=self._method == "attribution")
        runner = self._runner(analysis, runs)
        ranked_in = ranked_nodes(
            analysis,
            runs,
            self._method,
            self._alignment,
            self._circuit.errors,
        )
        nodes = ranked_in(self._chosen_on).head(self._options.budgets[-1])
        sites, keys = ordered(nodes, runner.spaces, self._alignment)
        yield from self._curves.measured(kind, runner, [Draw(sites, keys, self._rows)])

    def _runner(self, analysis: Analysis, runs: Runs) -> CircuitRunner:
        return runner_of(
            self._circuit, analysis, runs, self._alignment, self._options.ablation
        )

    def _check_rows(self) -> None:
        """Check that the metric is of rows where rows are looked at one by one."""
        is_one_number = self._runs.clean.values.ndim == 0
        n_rows = len(self._analysis.prompts.clean)
        splits = "splits" in self._options.controls
        if is_one_number and (splits or len(self._rows) < n_rows):
            raise InvalidArgument(
                "the metric is one number for all rows, and some of the rows are to "
                "be tested; use a metric that returns one number per row"
            )
        if splits and len(self._rows) < 2:
            raise InvalidArgument(
                "controls='splits' chooses nodes on one half of the rows and tests "
                f"them on the other; got {len(self._rows)} row"
            )


def _method(method: str, metric: Metric) -> str:
    """By which gradient controls are chosen: that of the circuit, if it has one."""
    if method != "joint" and is_flat_at_clean(metric):
        return "integrated_gradients"
    return method if method in STEPS else "attribution"
