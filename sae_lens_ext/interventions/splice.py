"""Put an SAE's reconstruction in the place of an activation, and turn k while the model runs."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch, UnknownSite, closest
from sae_lens_ext.hosts import Host, Site, host_for
from sae_lens_ext.hosts.runs import TokenWatch
from sae_lens_ext.interventions.positions import Positions, check_positions, chosen_positions, untrained_token_ids
from sae_lens_ext.sae import SAE, SparseCode

K = int | Mapping[str, int] | None
"""One k for every site, or one per site name, or None for what each SAE was trained at."""


def splice(model: Any, sae: SAE | Mapping[str, SAE], k: K = None, *, positions: Positions = None, extrapolate: bool = False) -> "Splice":
    """Replace activations by an SAE's reconstruction of them, for as long as a ``with`` block lasts.

    ::

        with sle.splice(model, sae, k=32) as spliced:
            logits = model(tokens)
            spliced.k = 8  # takes effect with the next run
            logits_at_8 = model(tokens)
            spliced.codes["blocks.12.hook_resid_post"]  # the features of the last run

    Leaving the block, also by an exception, restores the model exactly. The model's own calls (hooks, caches, generation) work
    inside of it and see the spliced value; gradients flow through it; several splices can be active at once.

    Args:
        model: a TransformerLens ``TransformerBridge`` or ``HookedTransformer``.
        sae: an SAE, spliced at its own ``config.hook_name``, or SAEs by site name.
        k: how many features each token keeps; see ``Splice.k``.
        positions: where to splice: a slice of positions, a boolean mask ``[batch, pos]`` or ``[pos]``, or ``"all"``. By default
            everywhere except on the special tokens that the SAE says it was not trained on. Positions that are left out keep
            their exact bits, and their codes are zero. A slice or mask counts the positions of one run; in generation with a
            cache, every new token is a run of its own.
        extrapolate: allow a k above what an SAE was trained at.

    Raises:
        UnknownSite: a name that is no site of this model, or an SAE without one.
        ShapeMismatch: an SAE of another width than the site.
        InvalidK: a k that an SAE cannot serve.
        InvalidArgument: no SAE, two for one place, or positions that are none.
        UnsupportedHost: a model that no adapter knows.
    """
    return Splice(host_for(model), sae, k, positions=positions, extrapolate=extrapolate)


class Splice:
    """A splice that is, or can be, active; made by ``splice``.

    Attributes:
        codes: the features of the last run by site name, for every position it spliced; zeros elsewhere. In cached generation,
            those of the last step.
        saes: the SAEs by site name.
    """

    def __init__(
        self, host: Host, sae: SAE | Mapping[str, SAE], k: K = None, *, positions: Positions = None, extrapolate: bool = False
    ) -> None:
        """Check everything; attach nothing yet."""
        check_positions(positions)
        self._host = host
        self._positions: Positions = positions
        self._extrapolate = extrapolate
        self.saes = saes_by_site(sae)
        self._sites = {name: checked_site(host, name, one) for name, one in self.saes.items()}
        if len({site.key for site in self._sites.values()}) < len(self._sites):
            raise InvalidArgument(f"two of these names are one place in the model, and one SAE goes to one place: {', '.join(self._sites)}")
        self._untrained = {name: untrained_token_ids(host, one) if positions is None else () for name, one in self.saes.items()}
        self.codes: dict[str, SparseCode] = {}
        self._k: dict[str, int] = {}
        self.k = k
        self._attached: ExitStack | None = None

    @property
    def k(self) -> int | dict[str, int]:
        """How many features each token keeps: one number when it is the same at every site, else by site name.

        Assign to it at any time; the next run uses it. A mapping changes the sites it names and leaves the others.
        """
        values = set(self._k.values())
        return values.pop() if len(values) == 1 else dict(self._k)

    @k.setter
    def k(self, k: K) -> None:
        wanted = k if isinstance(k, Mapping) else dict.fromkeys(self.saes, k)
        unknown = [name for name in wanted if name not in self.saes]
        if unknown:
            raise UnknownSite(f"no SAE is spliced at {unknown[0]!r}; there is one at: {closest(unknown[0], self.saes)}")
        checked = {name: self.saes[name].config.checked_k(value, extrapolate=self._extrapolate) for name, value in wanted.items()}
        defaults = {name: one.config.k for name, one in self.saes.items()} if not self._k else self._k
        self._k = {**defaults, **checked}

    def attach(self) -> "Splice":
        """What entering the ``with`` block does; for a splice that should outlive a notebook cell, with ``detach`` later."""
        if self._attached is not None:
            raise InvalidArgument("this splice is active already; leave its with block, or detach it, first")
        with ExitStack() as stack:
            watch = TokenWatch(self._host, self.codes.clear)
            stack.callback(watch.stop)
            for name, site in self._sites.items():
                stack.callback(self._host.attach(site, self._function(name, watch)))
            self._attached = stack.pop_all()
        return self

    def detach(self) -> None:
        """Take the splice out of the model; harmless when it is not active."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    def __enter__(self) -> "Splice":
        """Activate."""
        return self.attach()

    def __exit__(self, *_: object) -> None:
        """Deactivate."""
        self.detach()

    def __repr__(self) -> str:
        """Where, at which k, and whether it is active."""
        sites = ", ".join(f"{name}: k={k}" for name, k in self._k.items())
        return f"Splice({sites}; {'active' if self._attached is not None else 'not active'})"

    def _function(self, name: str, watch: TokenWatch) -> Callable[[Tensor], Tensor]:
        sae, untrained = self.saes[name], self._untrained[name]

        def reconstruct(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            if x.shape[-1] != sae.config.d_model:
                raise ShapeMismatch(f"the activation at {name} is {list(x.shape)}; the SAE spliced there has d_model={sae.config.d_model}")
            mask = chosen_positions(self._positions, (x.shape[0], x.shape[1]), untrained, watch.tokens)
            if mask is not None:
                mask = mask.to(x.device).unsqueeze(-1)
            # Left-out positions are zeroed on the way in: whatever they hold must not be checked, nor come out as features.
            chosen = x if mask is None else x.where(mask, 0)
            try:
                code = sae.encode(chosen.to(sae.W_enc.device), self._k[name], extrapolate=self._extrapolate)
            except NonFinite as error:
                raise NonFinite(f"at {name}: {error}") from error
            recons = sae.decode(code).to(device=x.device, dtype=x.dtype)
            if mask is None:
                self.codes[name] = code
                return recons
            self.codes[name] = SparseCode(code.values * mask.to(code.values.device), code.indices, code.d_sae)
            return recons.where(mask, x)

        return reconstruct


def saes_by_site(sae: SAE | Mapping[str, SAE]) -> dict[str, SAE]:
    """SAEs by site name, from one SAE that knows its own or from such a mapping."""
    if isinstance(sae, Mapping):
        if not sae:
            raise InvalidArgument("no SAE to splice: the mapping from site to SAE is empty")
        for name, one in sae.items():
            if not isinstance(name, str) or not isinstance(one, SAE):
                raise InvalidArgument(f"the mapping must go from site names to SAEs; it holds {name!r}: a {type(one).__name__}")
        return dict(sae)
    if not isinstance(sae, SAE):
        raise InvalidArgument(f"sae must be an SAE, or a mapping from site names to SAEs; got a {type(sae).__name__}")
    if sae.config.hook_name is None:
        raise UnknownSite("this SAE does not say where it belongs (config.hook_name is None); pass {'blocks.12.hook_resid_post': sae}")
    return {sae.config.hook_name: sae}


def checked_site(host: Host, name: str, sae: SAE) -> Site:
    """The site called ``name``, where this SAE fits."""
    site = host.site(name)
    width = host.width(site)
    if width is not None and width != sae.config.d_model:
        raise ShapeMismatch(f"{name} is {width} wide in this model, and the SAE for it has d_model={sae.config.d_model}")
    return site
