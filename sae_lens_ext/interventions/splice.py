"""Put an SAE's reconstruction in the place of an activation, turn k and edit features while the model runs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, InvalidK, NonFinite, ShapeMismatch, UnknownSite, closest
from sae_lens_ext.hosts import Host, Points, RunWatch, host_for, spellings
from sae_lens_ext.interventions.at_site import POINTS, ErrorTerm, spliced_activation, with_directions
from sae_lens_ext.interventions.dial import K, KRule, OneK, checked_dial
from sae_lens_ext.interventions.edits import AddDirection, Edit, FeatureEdit
from sae_lens_ext.interventions.positions import Positions, SplicedPositions, Window
from sae_lens_ext.interventions.sites import checked_sites, saes_by_site
from sae_lens_ext.sae import SAE, SparseCode

Edits = Sequence[Edit] | Mapping[str, Sequence[Edit]]
"""Edits at the one site that is spliced, or by site name."""


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
    return Splice(host_for(model), sae, k, error_term=error_term, edits=edits, positions=positions, extrapolate=extrapolate)


class Splice:
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
        self._host = host
        if not isinstance(extrapolate, bool):
            raise InvalidArgument(f"extrapolate must be True or False; got {extrapolate!r}")
        self._extrapolate = extrapolate
        self.error_term = error_term
        names = list(sae) if isinstance(sae, Mapping) else []
        given = {name: one for name, one in sae.items() if one is not None} if isinstance(sae, Mapping) else sae
        self.saes: dict[str, SAE] = saes_by_site(given) if given or not names else {}
        self._sites = checked_sites(host, {name: self.saes.get(name) for name in names or self.saes})
        self.positions = positions
        self.codes: dict[str, SparseCode] = _Codes(self._name)
        self._k: dict[str, int | Tensor | KRule] = {}
        self.k = k
        self._edits: dict[str, tuple[Edit, ...]] = dict.fromkeys(self._sites, ())
        self.edits = edits
        self._attached: ExitStack | None = None

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what would have no effect."""
        if not (name.startswith("_") or name in ("codes", "saes") or isinstance(getattr(type(self), name, None), property)):
            raise AttributeError(f"a splice has no {name!r} to set; what can be set: k, edits, error_term, positions")
        super().__setattr__(name, value)

    @property
    def error_term(self) -> ErrorTerm:
        """Whether what the SAE leaves out is added back; see ``splice``."""
        return self._error_term

    @error_term.setter
    def error_term(self, error_term: ErrorTerm) -> None:
        if not (isinstance(error_term, bool) or error_term == "reference"):
            raise InvalidArgument(f"error_term must be False, True or 'reference'; got {error_term!r}")
        self._error_term: ErrorTerm = error_term

    @property
    def positions(self) -> Positions:
        """Where it acts, as it was given; see ``splice``."""
        return self._positions

    @positions.setter
    def positions(self, positions: Positions) -> None:
        self._where = {name: SplicedPositions.of(self._host, self.saes.get(name), positions) for name in self._sites}
        self._positions = positions

    @property
    def k(self) -> Any:
        """How many features each token keeps: a value when it is the same at every site, else a dict by site name.

        What can be assigned: a number, a tensor of numbers per position (``[pos]`` or ``[batch, pos]``),
        a rule such as ``until_fvu(0.1)``, or None for what the SAE was trained at. A mapping changes the sites it names and leaves
        the others.
        """
        values = list(self._k.values())
        return values[0] if values and all(value is values[0] or value == values[0] for value in values) else dict(self._k)

    @k.setter
    def k(self, k: K) -> None:
        wanted: Mapping[str, OneK] = self._by_name(k) if isinstance(k, Mapping) else dict.fromkeys(self.saes, k)
        bare = [name for name in wanted if name not in self.saes]
        if bare:
            raise InvalidK(f"there is no SAE at {bare[0]}, so no k either")
        checked = {name: checked_dial(self.saes[name], value, extrapolate=self._extrapolate) for name, value in wanted.items()}
        defaults: Mapping[str, Any] = {name: one.config.k for name, one in self.saes.items()} if not self._k else self._k
        self._k = {**defaults, **checked}

    @property
    def edits(self) -> Any:
        """The edits: a tuple when one site is spliced, else tuples by site name.

        What can be assigned: a list of edits where one site is spliced; lists by site name, which change the sites they name and leave
        the others; an empty list, for no edits anywhere.
        """
        return next(iter(self._edits.values())) if len(self._sites) == 1 else dict(self._edits)

    @edits.setter
    def edits(self, edits: Edits) -> None:
        if not isinstance(edits, Mapping):
            if edits and len(self._sites) > 1:
                raise InvalidArgument(f"several sites are spliced, so say where: edits={{{next(iter(self._sites))!r}: [...]}}")
            edits = dict.fromkeys(self._sites, edits)
        wanted = self._by_name(edits)
        for name, some in wanted.items():
            if not isinstance(some, list | tuple) or not all(isinstance(edit, Edit) for edit in some):
                raise InvalidArgument(f"edits at {name} must be a list of edits such as Ablate(17); got {some!r}")
            for edit in some:
                self._refuse_unfit(name, edit)
        self._edits = {**self._edits, **{name: tuple(some) for name, some in wanted.items()}}

    def attach(self) -> "Splice":
        """What entering the ``with`` block does; for a splice that should outlive a notebook cell, with ``detach`` later."""
        if self._attached is not None:
            raise InvalidArgument("this splice is active already; leave its with block, or detach it, first")
        with ExitStack() as stack:
            reached: set[str] = set()
            watch = RunWatch(lambda: (self.codes.clear(), reached.clear()), lambda: self._refuse_silent(reached))
            stack.callback(self._host.watch(watch.begin, watch.keep, watch.end))
            for name, site in self._sites.items():
                points, close = self._host.points(site, POINTS)
                stack.callback(close)
                stack.callback(self._host.attach(site, self._function(name, watch, points, reached)))
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
        if not hasattr(self._host, "attach_now"):
            raise InvalidArgument("apply() is for traces of nnsight models; on this one use the splice as a with block, or attach()")
        host: Any = self._host
        watch = RunWatch(self.codes.clear, lambda: None)
        if not all(where.are_all for where in self._where.values()):
            host.watch_now(watch.begin, watch.keep)
        times = {name: site.when for name, site in self._sites.items()}
        order = list(times) if None in times.values() else sorted(times, key=lambda name: times[name] or ())
        for name in order:
            host.attach_now(self._sites[name], self._function(name, watch, Points(), set()))
        return self

    def __enter__(self) -> "Splice":
        """Activate."""
        return self.attach()

    def __exit__(self, *_: object) -> None:
        """Deactivate."""
        self.detach()

    def __repr__(self) -> str:
        """Where, at which k, with which edits, and whether it is active."""
        sites = [f"{name}: k={self._k[name]}" if name in self._k else name for name in self._sites]
        sites = [f"{site}, {list(self._edits[name])}" if self._edits[name] else site for site, name in zip(sites, self._sites, strict=True)]
        error = f"; error_term={self._error_term!r}" if self._error_term else ""
        return f"Splice({'; '.join(sites)}{error}; {'active' if self._attached is not None else 'not active'})"

    def __getstate__(self) -> dict[str, Any]:
        """Without what is attached: a copy, such as the one nnsight sends to a server with its edits, is attached to nothing."""
        return {**self.__dict__, "_attached": None}

    def _name(self, given: str) -> str:
        """The name this splice has for a site, whichever of its spellings was given."""
        found = next((name for name in spellings(given) if name in self._sites), None) if isinstance(given, str) else None
        if found is None:
            raise UnknownSite(f"nothing is spliced at {given!r}; something is at: {closest(str(given), self._sites)}")
        return found

    def _by_name(self, by_site: Mapping[str, Any]) -> dict[str, Any]:
        return {self._name(given): value for given, value in by_site.items()}

    def _refuse_unfit(self, name: str, edit: Edit) -> None:
        sae = self.saes.get(name)
        if isinstance(edit, FeatureEdit):
            if sae is None:
                raise InvalidArgument(f"{edit!r} edits features, and there is no SAE at {name}; AddDirection does not need one")
            if max(edit.ids) >= sae.config.d_sae:
                raise InvalidArgument(f"{edit!r}: the SAE at {name} has features 0 to {sae.config.d_sae - 1}")
            if edit.run is not None and edit.run.d_sae(name) != sae.config.d_sae:
                raise ShapeMismatch(
                    f"{edit!r} takes activations from a run of another SAE: its features at {name} are {edit.run.d_sae(name)}, here they "
                    f"are {sae.config.d_sae}"
                )
        elif isinstance(edit, AddDirection) and sae is not None and len(edit.vector) != sae.config.d_model:
            raise ShapeMismatch(f"{edit!r}: {name} is {sae.config.d_model} wide")

    def _refuse_silent(self, reached: set[str]) -> None:
        silent = [name for name in self._sites if name not in reached]
        if silent:
            raise UnknownSite(
                f"{', '.join(silent)} did not fire in this run, so nothing was spliced there; choose a site that the model computes, and "
                "let it compute it (a later start, compiled code and hooks that are reset leave it out)"
            )

    def _function(self, name: str, watch: RunWatch, points: Points, reached: set[str]) -> Callable[[Tensor], Tensor]:
        sae = self.saes.get(name)

        def replaced(x: Tensor) -> Tensor:
            reached.add(name)
            if x.ndim != 3 or (sae is not None and x.shape[-1] != sae.config.d_model):
                wanted = "[batch, pos, d]" if sae is None else f"the SAE spliced there has d_model={sae.config.d_model}"
                raise ShapeMismatch(f"the activation at {name} is {list(x.shape)}; {wanted}")
            given = points.passed("hook_sae_input", lambda: x)
            x = x if given is None else given[1]
            window = Window(x.shape[0], x.shape[1], watch.start)
            mask = self._where[name].mask(window, watch.tokens)
            if sae is None:
                out = with_directions(x, self._edits[name], window)
            else:
                out = self._by_sae(name, sae, x, Window(x.shape[0], x.shape[1], watch.start, mask), points)
            out = out.to(device=x.device, dtype=x.dtype)
            out = out if mask is None else out.where(mask.to(x.device).unsqueeze(-1), x)
            given = points.passed("hook_sae_output", lambda: out)
            return out if given is None else given[1]

        return replaced

    def _by_sae(self, name: str, sae: SAE, x: Tensor, window: Window, points: Points) -> Tensor:
        device = sae.W_enc.device
        # Left-out positions are zeroed on the way in: whatever they hold must not be checked, nor come out as features.
        chosen = x if window.mask is None else x.where(window.mask.to(x.device).unsqueeze(-1), 0)
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
        raise UnknownSite(f"there is no code of {name}: either it has no SAE, or the model has not run since the splice became active")
