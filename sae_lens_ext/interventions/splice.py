"""Put an SAE's reconstruction in the place of an activation, turn k and edit features while the model runs."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch, UnknownSite
from sae_lens_ext.hosts import Host, PassTracker, Points, TracingHost, host_for
from sae_lens_ext.interventions.arithmetic import (
    POINTS,
    ErrorTerm,
    spliced_activation,
    with_directions,
)
from sae_lens_ext.interventions.controls import Edits, SpliceSettings
from sae_lens_ext.interventions.dial import K
from sae_lens_ext.interventions.positions.window import Positions, Window
from sae_lens_ext.sae import SAE, SparseCode


def splice(
    model: Any,
    sae: SAE | Mapping[str, SAE | None],
    k: K = None,
    *,
    error_term: ErrorTerm = False,
    edits: Edits = (),
    positions: Positions = None,
    extrapolate: bool = False,
) -> "Splice":
    """Replace activations by an SAE's reconstruction of them, for as long as a ``with`` block lasts.

    ::

        with sle.splice(model, sae, k=32) as spliced:
            logits = model(tokens)
            spliced.k = 8  # takes effect with the next run
            logits_at_8 = model(tokens)
            spliced.codes["blocks.12.hook_resid_post"]  # the features of the last run

        with sle.splice(model, sae, error_term=True, edits=[sle.Ablate([17, 403]), sle.Steer(981, by=6.0)]):
            logits = model(tokens)  # nothing but these features has changed

    Leaving the block, also by an exception, restores the model exactly. The model's own calls (hooks, caches, generation, traces)
    work inside of it and see the spliced value; gradients flow through it; several splices can be active at once.

    Args:
        model: a TransformerLens, nnsight or Hugging Face model, or any torch module.
        sae: an SAE, spliced at its own ``config.hook_name``, or SAEs by site name: TransformerLens names on every model, or the
            path of a module in the model. None in place of an SAE leaves the activation there to ``AddDirection``.
        k: how many features each token keeps; see ``Splice.k``.
        error_term: whether to add back what the SAE at the current k leaves out. With it, and no edit, the output is the
            activation itself, to the bit. ``"reference"`` adds back what the SAE leaves out at the k it was trained at, so that a
            smaller k leaves features out of the model.
        edits: what to do to features, in this order; with several sites, by site name. See ``Splice.edits``.
        positions: where to splice: a slice of positions, a list of them, a boolean mask ``[batch, pos]`` or ``[pos]``, or
            ``"all"``. By default everywhere except on the special tokens that the SAE says it was not trained on. Positions that
            are left out keep their exact bits, and their codes are zero. In generation with a cache positions count from the
            beginning of the text, and a mask covers the prompt alone.
        extrapolate: allow a k above what an SAE was trained at.

    Raises:
        UnknownSite: a name that is no site of this model, or an SAE without one.
        ShapeMismatch: an SAE of another width than the site.
        InvalidK: a k that an SAE cannot serve.
        InvalidArgument: no SAE, two for one place, or an option that is none.
        UnsupportedHost: a model that no adapter knows.
    """
    return Splice(
        host_for(model),
        sae,
        k,
        error_term=error_term,
        edits=edits,
        positions=positions,
        extrapolate=extrapolate,
    )


class Splice(SpliceSettings):
    """A splice that is, or can be, active; made by ``splice``.

    ``k``, ``edits``, ``error_term`` and ``positions`` can be assigned at any time; the next run uses them.

    Attributes:
        codes: the features of the last run by site name, as the SAE found them (before edits), for every position it spliced;
            zeros elsewhere. In cached generation, those of the last step.
        saes: the SAEs by site name.
    """

    def __init__(
        self,
        host: Host,
        sae: SAE | Mapping[str, SAE | None],
        k: K = None,
        *,
        error_term: ErrorTerm = False,
        edits: Edits = (),
        positions: Positions = None,
        extrapolate: bool = False,
    ) -> None:
        """Check everything; attach nothing yet."""
        super().__init__(
            host,
            sae,
            k,
            error_term=error_term,
            edits=edits,
            positions=positions,
            extrapolate=extrapolate,
        )
        self.codes: dict[str, SparseCode] = _Codes(self._name)
        self._attached: ExitStack | None = None

    def attach(self) -> "Splice":
        """What entering the ``with`` block does; for a splice that should outlive a notebook cell, with ``detach`` later."""
        if self._attached is not None:
            raise InvalidArgument(
                "this splice is active already; leave its with block, or detach it, first"
            )
        with ExitStack() as stack:
            reached: set[str] = set()
            watch = PassTracker(
                lambda: (self.codes.clear(), reached.clear()),
                lambda: self._refuse_silent(reached),
            )
            stack.callback(self._host.watch(watch.begin, watch.keep, watch.end))
            for name, site in self._sites.items():
                points, close = self._host.points(site, POINTS)
                stack.callback(close)
                stack.callback(
                    self._host.attach(
                        site, self._function(name, watch, points, reached)
                    )
                )
            self._attached = stack.pop_all()
        return self

    def detach(self) -> None:
        """Take the splice out of the model; harmless when it is not active."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    def apply(self) -> "Splice":
        """Inside a trace of an nnsight model: splice this run, or this step of a generation, alone.

        ::

            with lm.trace(prompt):
                sle.splice(lm, sae, k=8).apply()
                logits = lm.output.logits.save()

        It asks for the model's input first, so call it before anything else of the run, and in a generation at every step. It is
        sent to a server with the trace. Several sites are met in the model's order where all have TransformerLens names, else in the
        order given.

        Raises:
            InvalidArgument: not an nnsight model, or no trace is running.
        """
        host = self._host
        if not isinstance(host, TracingHost):
            raise InvalidArgument(
                "apply() is for traces of nnsight models; on this one use the splice as a with block, or attach()"
            )
        watch = PassTracker(self.codes.clear, lambda: None)
        if not all(where.are_all for where in self._where.values()):
            host.watch_now(watch.begin, watch.keep)
        times = {name: site.when for name, site in self._sites.items()}
        order = (
            list(times)
            if None in times.values()
            else sorted(times, key=lambda name: times[name] or ())
        )
        for name in order:
            host.attach_now(
                self._sites[name], self._function(name, watch, Points(), set())
            )
        return self

    def __enter__(self) -> "Splice":
        """Activate."""
        return self.attach()

    def __exit__(self, *_: object) -> None:
        """Deactivate."""
        self.detach()

    def __repr__(self) -> str:
        """Where, at which k, with which edits, and whether it is active."""
        sites = [
            f"{name}: k={self._k[name]}" if name in self._k else name
            for name in self._sites
        ]
        sites = [
            f"{site}, {list(self._edits[name])}" if self._edits[name] else site
            for site, name in zip(sites, self._sites, strict=True)
        ]
        error = f"; error_term={self._error_term!r}" if self._error_term else ""
        return f"Splice({'; '.join(sites)}{error}; {'active' if self._attached is not None else 'not active'})"

    def __getstate__(self) -> dict[str, Any]:
        """Without what is attached: a copy, such as the one nnsight sends to a server with its edits, is attached to nothing."""
        return {**self.__dict__, "_attached": None}

    def _refuse_silent(self, reached: set[str]) -> None:
        silent = [name for name in self._sites if name not in reached]
        if silent:
            raise UnknownSite(
                f"{', '.join(silent)} did not fire in this run, so nothing was spliced there; choose a site that the model computes, and "
                "let it compute it (a later start, compiled code and hooks that are reset leave it out)"
            )

    def _function(
        self, name: str, watch: PassTracker, points: Points, reached: set[str]
    ) -> Callable[[Tensor], Tensor]:
        sae = self.saes.get(name)

        def replaced(x: Tensor) -> Tensor:
            reached.add(name)
            if x.ndim != 3 or (sae is not None and x.shape[-1] != sae.config.d_model):
                wanted = (
                    "[batch, pos, d]"
                    if sae is None
                    else f"the SAE spliced there has d_model={sae.config.d_model}"
                )
                raise ShapeMismatch(
                    f"the activation at {name} is {list(x.shape)}; {wanted}"
                )
            given = points.passed("hook_sae_input", lambda: x)
            x = x if given is None else given[1]
            window = Window(x.shape[0], x.shape[1], watch.start)
            mask = self._where[name].mask(window, watch.tokens)
            if sae is None:
                out = with_directions(x, self._edits[name], window)
            else:
                out = self._by_sae(
                    name,
                    sae,
                    x,
                    Window(x.shape[0], x.shape[1], watch.start, mask),
                    points,
                )
            out = out.to(device=x.device, dtype=x.dtype)
            out = out if mask is None else out.where(mask.to(x.device).unsqueeze(-1), x)
            given = points.passed("hook_sae_output", lambda: out)
            return out if given is None else given[1]

        return replaced

    def _by_sae(
        self, name: str, sae: SAE, x: Tensor, window: Window, points: Points
    ) -> Tensor:
        device = sae.W_enc.device
        # Left-out positions are zeroed on the way in: whatever they hold must not be checked, nor come out as features.
        chosen = (
            x
            if window.mask is None
            else x.where(window.mask.to(x.device).unsqueeze(-1), 0)
        )
        try:
            # The SAE computes in its own dtype, whatever the model's surroundings say.
            with torch.autocast(device.type, enabled=False):
                out, code = spliced_activation(
                    chosen.to(device),
                    sae,
                    self._k[name],
                    error_term=self._error_term,
                    edits=self._edits[name],
                    window=window,
                    site=name,
                    points=points,
                    extrapolate=self._extrapolate,
                )
        except NonFinite as error:
            raise NonFinite(f"at {name}: {error}") from error
        self.codes[name] = code if window.mask is None else code.where(window.mask)
        return out


class _Codes(dict[str, SparseCode]):
    """Codes by site name, in either spelling of it, and an error that says why there is none."""

    def __init__(self, name: Callable[[str], str]) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, given: str) -> SparseCode:
        name = self._name(given)
        if name in self:
            return self[name]
        raise UnknownSite(
            f"there is no code of {name}: either it has no SAE, or the model has not run since the splice became active"
        )
