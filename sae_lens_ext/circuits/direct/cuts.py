"""Runs in which the nodes of every site are held.

At a site the model goes on with a copy of the activation that is a leaf of the graph.
So the values stay as they are, and a gradient by a leaf follows only the paths that
pass no later leaf: the direct ones. Where a site has no nodes (outside of its mask) the
activation itself goes on, and paths pass through.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.runs import weights_held
from sae_lens_ext.errors import NonFinite
from sae_lens_ext.hosts import Site, SiteFunction, long_rows, run_to

TOKENS = "tokens"
"""The name of the embedding as a site of nodes: every token is one."""


@dataclass(frozen=True, eq=False)
class CutRun:
    """What one run has at its sites; filled while it runs.

    Attributes:
        arrived: what the model computed at a site, by the name of the site.
        held: what it went on with: a leaf by the name of each site, and of the tokens.
        read: what a transcoder reads, by the name of the site that it writes.
    """

    arrived: dict[str, Float[Tensor, "rows pos d_out"]] = field(default_factory=dict)
    held: dict[str, Float[Tensor, "rows pos d_out"]] = field(default_factory=dict)
    read: dict[str, Float[Tensor, "rows pos d_in"]] = field(default_factory=dict)

    def reads(self, name: str) -> Float[Tensor, "rows pos d_in"]:
        """What the SAE that writes at a site reads."""
        # The run may end where a transcoder reads, before it writes.
        return self.read[name] if name in self.read else self.arrived[name]


class Cuts:
    """Runs of an analysis with every site cut."""

    def __init__(self, analysis: Analysis, order: Iterable[Site]) -> None:
        """Cut the sites of an analysis, which has an embedding.

        Args:
            analysis: the model, the SAEs in it, and the rows.
            order: its sites, in the order in which the model computes them.
        """
        assert analysis.embedding is not None
        self._analysis = analysis
        self._embedding = analysis.embedding
        # Two sites may be names of one place.
        self._sites: dict[str, Site] = {}
        for site in order:
            self._sites.setdefault(site.key, site)
        self._depth = {key: depth for depth, key in enumerate(self._sites)}
        # None where every token has nodes.
        self._masks: dict[str, Tensor | None] = {}
        text = analysis.prompts.clean.mask
        for name, mask in analysis.masks.items():
            is_whole = _covers(mask, text)
            self._masks[name] = None if is_whole else mask

    def depth(self, name: str, *, of_error: bool = False) -> int:
        """How late a run computes what the node of a site depends on.

        A feature depends on what its SAE reads, an error on what is there at the site.
        """
        place = self._analysis.placed[name]
        site = place.site if of_error else place.reads
        return self._depth[site.key]

    def is_upstream(self, source: str, name: str, *, of_error: bool) -> bool:
        """Whether the nodes of a source may reach those of a site directly."""
        if source == TOKENS:
            return True
        place = self._analysis.placed[name]
        own = self.depth(source, of_error=True)
        depth = self.depth(name, of_error=of_error)
        # A transcoder reads at a site what that site goes on with.
        if place.source is not None and not of_error:
            return own <= depth
        return own < depth

    def run(self, rows: Int[Tensor, " rows"], depth: int) -> CutRun:
        """Run some rows of the clean prompts up to a site.

        Args:
            rows: the rows, each as often as it is named.
            depth: of the last site, as ``depth`` gives it.
        """
        analysis = self._analysis
        run = CutRun()
        functions = self._functions(run, rows)
        tokens = analysis.prompts.clean[rows.tolist()]
        last = next(
            site for key, site in self._sites.items() if self._depth[key] == depth
        )
        with (
            torch.enable_grad(),
            weights_held(analysis.host.model),
            analysis.freezing.replaying(rows),
            long_rows(analysis.host, tokens),
        ):
            run_to(analysis.host, tokens, functions, last)
        return run

    def metric_gradients(self) -> dict[str, Float[Tensor, "batch pos d_out"]]:
        """The gradient of the metric by every leaf, in one run of all rows."""
        analysis = self._analysis
        tokens = analysis.prompts.clean
        run = CutRun()
        with torch.enable_grad(), weights_held(analysis.host.model):
            with ExitStack() as stack:
                functions = self._functions(run, torch.arange(len(tokens)))
                for site, function in functions.items():
                    stack.callback(analysis.host.attach(site, function))
                stack.enter_context(analysis.freezing.replaying())
                logits = analysis.measurement.logits(tokens)
            values = analysis.measurement.values(logits)
        return gradients_at(run.held, [values.sum()], [None])

    def _functions(
        self,
        run: CutRun,
        rows: Int[Tensor, " rows"],
    ) -> dict[Site, SiteFunction]:
        return {
            site: self._function(key, run, rows) for key, site in self._sites.items()
        }

    def _function(
        self,
        key: str,
        run: CutRun,
        rows: Int[Tensor, " rows"],
    ) -> Callable[[Tensor], Tensor]:
        """What takes part in a run at one place."""
        placed = self._analysis.placed.items()
        written = [name for name, place in placed if place.site.key == key]
        read = [
            name
            for name, place in placed
            if place.source is not None and place.source.key == key
        ]

        def reach(x: Tensor) -> Tensor:
            # A later module may write into the tensor that it gets.
            x = x.clone()
            if key == self._embedding.key:
                x = _cut(run, TOKENS, x, None)
            for name in written:
                run.arrived[name] = x
                mask = self._masks[name]
                x = _cut(run, name, x, None if mask is None else mask[rows])
            for name in read:
                run.read[name] = x
            return x.clone()

        return reach


def gradients_at(
    leaves: Mapping[str, Tensor],
    outputs: Sequence[Tensor],
    seeds: Sequence[Tensor | None],
) -> dict[str, Tensor]:
    """Gradients of the product of outputs and seeds by leaves, zeros where none is.

    Raises:
        NonFinite: a gradient holds NaN or infinity.
    """
    # What depends on no leaf has no graph.
    connected = []
    connected_seeds = []
    for output, seed in zip(outputs, seeds, strict=True):
        if output.requires_grad:
            connected.append(output)
            connected_seeds.append(seed)

    names = list(leaves)
    gradients: tuple[Tensor | None, ...] = (None,) * len(names)
    if connected:
        gradients = torch.autograd.grad(
            connected,
            list(leaves.values()),
            connected_seeds,
            allow_unused=True,
        )

    by_name = {}
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(leaves[name])
        by_name[name] = gradient
        if not bool(torch.isfinite(gradient).all()):
            raise NonFinite(
                f"the gradient of a node by what is at {name} holds NaN or infinity; "
                "check the weights and dtype of the model"
            )
    return by_name


def _cut(
    run: CutRun,
    name: str,
    x: Tensor,
    mask: Bool[Tensor, "rows pos"] | None,
) -> Tensor:
    """An activation with a leaf in its place, everywhere or at the tokens of a mask."""
    leaf = x.detach().clone().requires_grad_()
    run.held[name] = leaf
    if mask is None:
        return leaf
    return torch.where(mask.to(x.device).unsqueeze(-1), leaf, x)


def _covers(mask: Bool[Tensor, "batch pos"], text: Bool[Tensor, "batch pos"]) -> bool:
    """Whether every token of the text has nodes."""
    return bool((mask | ~text.to(mask.device)).all())
