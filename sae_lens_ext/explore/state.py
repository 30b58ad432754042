"""What the dial shows of a text, computed without a browser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._labels import Labels, labels_by_site
from sae_lens_ext.errors import InvalidArgument, InvalidK, SaeLensExtError
from sae_lens_ext.features.token_strings import token_strings
from sae_lens_ext.hosts import Host, host_for, token_rows
from sae_lens_ext.interventions import Splice, Steer
from sae_lens_ext.interventions.arithmetic import ErrorTerm
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs
from sae_lens_ext.sae import SparseCode

_N_PREDICTIONS = 8
_N_FEATURES = 16


@dataclass(frozen=True)
class Pin:
    """A feature that stays in sight.

    Attributes:
        site: name of its site.
        feature: its number.
        by: what is added to its activation at every spliced token; 0 for nothing.
    """

    site: str
    feature: int
    by: float = 0.0


class DialState:
    """A text with SAEs spliced into the model: k, a token to look at, pinned features.

    ::

        state = DialState(model, sae, "The Eiffel Tower is in")
        state.turn(8)
        state.pin(981, by=20.0)
        state.view()  # what the widget shows, as JSON values

    A failed change changes nothing.

    Attributes:
        sites: names of the sites.
        tokens: the tokens as text.
        position: the token to look at, a number from 0.
        pins: the pinned features.
    """

    def __init__(
        self,
        model: Any,
        sae: SAEs,
        text: Any,
        *,
        k: int | Mapping[str, int] | None = None,
        labels: Labels | None = None,
        error_term: ErrorTerm = False,
        positions: Positions = None,
    ) -> None:
        """Run the bare model and the spliced one; see ``dial`` for the arguments."""
        self._host = host_for(model).plain()
        self._batch = token_rows(self._host, text)
        if len(self._batch) != 1:
            raise InvalidArgument(
                f"the dial shows one text; got {len(self._batch)}; make a dial for each"
            )
        self._splice = Splice(
            self._host, sae, error_term=error_term, positions=positions
        )
        self.sites = list(self._splice.saes)
        self._labels = labels_by_site(labels, self.sites)
        self.tokens = _as_texts(self._host, self._batch.ids[0].tolist())
        self.position = len(self.tokens) - 1
        self.pins: tuple[Pin, ...] = ()

        self._bare = self._log_probs()
        self._k: dict[str, int] = {}
        self._run({}, ())
        # Of an SAE that was not trained at a k, every active feature of the text.
        self._largest = {
            name: self._splice.saes[name].config.k or max(1, self._codes[name].k)
            for name in self.sites
        }
        self._scale = {
            name: self._codes[name].values.max().item() for name in self.sites
        }
        self._k = dict(self._largest)
        if k is not None:
            self.turn(k)

    @property
    def k(self) -> dict[str, int]:
        """The number of features that a token keeps, by site."""
        return dict(self._k)

    def turn(self, k: int | Mapping[str, int]) -> None:
        """Set k, at all sites as far as they go, or at those that a mapping names.

        Raises:
            InvalidK: a site cannot have that k.
        """
        ks = self._checked(k)
        self._run(ks, self.pins)
        self._k = ks

    def look_at(self, position: int) -> None:
        """Choose the token to look at, by its number; the model does not run for it.

        Raises:
            InvalidArgument: there is no such token.
        """
        self.position = self._checked_position(position)

    def pin(
        self,
        feature: int,
        site: str | None = None,
        by: float = 0.0,
    ) -> None:
        """Keep a feature in sight, and add ``by`` to its activation everywhere.

        A feature that is pinned already gets the new ``by``.

        Args:
            feature: its number.
            site: name of its site; may be left out where there is one.
            by: in units of the SAE's activations; 0 leaves the model as it is.

        Raises:
            InvalidArgument: no such site or feature, or not a finite number.
        """
        pin = self._checked_pin(feature, site, by)
        self._set_pins([*self._others(pin.site, pin.feature), pin])

    def unpin(self, feature: int, site: str | None = None) -> None:
        """Let a pinned feature go, and leave it alone."""
        self._set_pins(self._others(self._site(site), feature))

    def updated(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The view after a request of the widget, with the error if it failed.

        Args:
            request: any of ``k`` by site, ``position``, and ``pins``, each with
                ``site``, ``feature`` and ``by``.
        """
        error = ""
        try:
            self._apply(request)
        # Whatever the model raises is for the user to read, who has no other place
        # where it would be shown.
        except Exception as reason:
            error = str(reason) or type(reason).__name__
            if not isinstance(reason, SaeLensExtError):
                error = f"{type(reason).__name__}: {error}"
        return {**self.view(), "error": error}

    def view(self) -> dict[str, Any]:
        """What is to be seen, as JSON values."""
        return {
            "sites": [
                {
                    "name": name,
                    "k": self._k[name],
                    "largest": self._largest[name],
                    "scale": self._scale[name],
                }
                for name in self.sites
            ],
            "tokens": self.tokens,
            "kl": self.kls().tolist(),
            "position": self.position,
            "bare": self._likeliest(self._bare),
            "spliced": self._likeliest(self._spliced),
            "features": [
                feature for name in self.sites for feature in self._active(name)
            ],
            "pins": [self._pinned(pin) for pin in self.pins],
            "error": "",
        }

    def kls(self) -> Float[Tensor, " pos"]:
        """KL(bare || spliced) of the token after each position, in nats."""
        return self._kls

    def _apply(self, request: Mapping[str, Any]) -> None:
        position = self._checked_position(request.get("position", self.position))
        ks = self._checked(request.get("k", {}))
        pins = self.pins
        if "pins" in request:
            pins = tuple(
                self._checked_pin(pin["feature"], pin["site"], pin["by"])
                for pin in request["pins"]
            )
        # Looking at another token does not need the model.
        if ks != self._k or pins != self.pins:
            self._run(ks, pins)
        self._k = ks
        self.pins = pins
        self.position = position

    def _checked(self, k: int | Mapping[str, int]) -> dict[str, int]:
        """k of every site, from one for all or from those of some."""
        if not isinstance(k, Mapping):
            number = arguments.k(k, max(self._largest.values()), "largest_k")
            return {name: min(number, most) for name, most in self._largest.items()}
        unknown = k.keys() - self._largest.keys()
        if unknown:
            raise InvalidK(f"there is no k at {', '.join(sorted(map(str, unknown)))}")
        ks = {
            name: arguments.k(number, self._largest[name], "largest_k")
            for name, number in k.items()
        }
        return {**self._k, **ks}

    def _checked_position(self, position: object) -> int:
        return arguments.integer(
            position, "position", at_least=0, at_most=len(self.tokens) - 1
        )

    def _checked_pin(
        self,
        feature: object,
        site: str | None,
        by: object,
    ) -> Pin:
        name = self._site(site)
        d_sae = self._splice.saes[name].config.d_sae
        number = arguments.integer(feature, "feature", at_least=0, at_most=d_sae - 1)
        return Pin(name, number, arguments.finite(by, "by"))

    def _set_pins(self, pins: Sequence[Pin]) -> None:
        self._run(self._k, pins)
        self.pins = tuple(pins)

    def _others(self, site: str, feature: int) -> list[Pin]:
        return [pin for pin in self.pins if (pin.site, pin.feature) != (site, feature)]

    def _site(self, name: str | None) -> str:
        if name is None and len(self.sites) == 1:
            return self.sites[0]
        if name not in self.sites:
            raise InvalidArgument(
                f"site must be one of {', '.join(self.sites)}; got {name!r}"
            )
        return name

    def _run(
        self,
        ks: Mapping[str, int],
        pins: Sequence[Pin],
    ) -> None:
        """Run the spliced model; nothing is kept of a run that fails."""
        self._splice.k = {name: ks.get(name) for name in self.sites}
        self._splice.edits = {
            name: [
                Steer(pin.feature, by=pin.by)
                for pin in pins
                if pin.site == name and pin.by != 0
            ]
            for name in self.sites
        }
        with self._splice as spliced:
            log_probs = self._log_probs()
            codes = {name: spliced.codes[name][0].detach() for name in self.sites}
        self._spliced = log_probs
        # A token at a time: its logits fit a cache, and those of a text do not.
        kls = [_kl(*pair) for pair in zip(self._bare, log_probs, strict=True)]
        self._kls = torch.stack(kls)
        self._codes: dict[str, SparseCode] = codes

    def _log_probs(self) -> Float[Tensor, "pos d_vocab"]:
        with torch.no_grad():
            logits = self._host.logits(self._batch)[0]
        return logits.float().log_softmax(-1).cpu()

    def _likeliest(self, log_probs: Tensor) -> list[list[Any]]:
        """The likeliest next tokens at the chosen position, with probabilities."""
        at_position = log_probs[self.position]
        best = at_position.topk(min(_N_PREDICTIONS, len(at_position)))
        words = _as_texts(self._host, best.indices.tolist())
        probs = best.values.exp().tolist()
        return [list(pair) for pair in zip(words, probs, strict=True)]

    def _active(self, name: str) -> list[dict[str, Any]]:
        """The strongest features of the chosen token at a site."""
        code = self._codes[name][self.position]
        pairs = zip(code.indices.tolist(), code.values.tolist(), strict=True)
        active = [pair for pair in pairs if pair[1] > 0][:_N_FEATURES]
        return [self._described(name, feature, value) for feature, value in active]

    def _pinned(self, pin: Pin) -> dict[str, Any]:
        code = self._codes[pin.site][self.position]
        value = code.values[code.indices == pin.feature].sum().item()
        return {**self._described(pin.site, pin.feature, value), "by": pin.by}

    def _described(
        self,
        site: str,
        feature: int,
        value: float,
    ) -> dict[str, Any]:
        label = self._labels.get(site, {}).get(feature, "")
        return {
            "site": site,
            "feature": feature,
            "label": label,
            "value": value,
        }


def _kl(
    bare: Float[Tensor, " d_vocab"],
    spliced: Float[Tensor, " d_vocab"],
) -> Float[Tensor, ""]:
    """KL(bare || spliced) of two distributions, from their log-probabilities."""
    probs = bare.exp()
    # What the bare model excludes counts nothing.
    terms = torch.where(probs > 0, probs * (bare - spliced), 0)
    return terms.sum().clamp(min=0)


def _as_texts(host: Host, ids: Sequence[int]) -> list[str]:
    """Every token as text by itself."""
    strings = token_strings(host.tokenizer, set(ids))
    return [strings[number] for number in ids]
