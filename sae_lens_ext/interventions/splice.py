"""Put an SAE's reconstruction in the place of an activation while the model runs."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import (
    CacheMemory,
    Host,
    Seen,
    TracingHost,
    host_for,
    token_rows,
)
from sae_lens_ext.interventions.arithmetic import ErrorTerm
from sae_lens_ext.interventions.attaching import apply_now, attached
from sae_lens_ext.interventions.controls import Controls, Edits
from sae_lens_ext.interventions.dial import K
from sae_lens_ext.interventions.guard import ChosenK, Guard, NextToken
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.replacement import Codes
from sae_lens_ext.interventions.sites import SiteName, placements
from sae_lens_ext.sae import SAE, SparseCode


def _likeliest(logits: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
    return logits.argmax(-1)


def splice(
    model: Any,
    sae: SAE | Sequence[SAE] | Mapping[SiteName, SAE | None],
    k: K = None,
    *,
    error_term: ErrorTerm = False,
    edits: Edits = (),
    positions: Positions = None,
    extrapolate: bool = False,
) -> "Splice":
    """Replace activations by an SAE's reconstruction while a ``with`` block lasts.

    ::

        with sle.splice(model, sae, k=32) as spliced:
            logits = model(tokens)
            spliced.k = 8  # takes effect with the next run
            logits_at_8 = model(tokens)
            spliced.codes["blocks.12.hook_resid_post"]  # the features of the last run

        edits = [sle.Ablate([17, 403]), sle.Steer(981, by=6.0)]
        with sle.splice(model, sae, error_term=True, edits=edits):
            logits = model(tokens)  # nothing but these features has changed

    Leaving the block, also by an exception, restores the model exactly. The model's own
    calls (hooks, caches, generation, traces) work inside of it and see the spliced
    value; gradients flow through it; several splices can be active at once.

    Args:
        model: a TransformerLens, nnsight or Hugging Face model, or any torch module.
        sae: an SAE, spliced at its own ``config.hook_name``, a list of such SAEs, or
            SAEs by site name: TransformerLens names on every model, or the path of a
            module in the model.
            A transcoder goes to the two sites in its config, or to
            ``{(input_site, output_site): transcoder}``; everything else then names it
            by its output. None in place of an SAE leaves the activation there to
            ``AddDirection``.
        k: how many features each token keeps; see ``Splice.k``.
        error_term: whether to add back what the SAE at the current k leaves out; see
            ``Splice.error_term``.
        edits: what to do to features, in this order; with several sites, by site name.
            See ``Splice.edits``.
        positions: where to splice; see ``Splice.positions``.
        extrapolate: allow a k above what an SAE was trained at.

    Raises:
        UnknownSite: the model has no site of that name, or the SAE does not name a
            site.
        ShapeMismatch: an SAE has another width than its site.
        InvalidK: an SAE cannot serve a k.
        InvalidArgument: there is no SAE, two SAEs are for one place, or an option is
            invalid.
        UnsupportedHost: no adapter knows the model.
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


class Splice:
    """A splice, active or not; made by ``splice``.

    ``k``, ``edits``, ``error_term`` and ``positions`` can be assigned at any time; the
    next run uses them. A run, also where a backward pass repeats it (activation
    checkpointing), keeps to those of its beginning. A failed assignment does nothing.
    """

    def __init__(
        self,
        host: Host,
        sae: SAE | Sequence[SAE] | Mapping[SiteName, SAE | None],
        k: K = None,
        *,
        error_term: ErrorTerm = False,
        edits: Edits = (),
        positions: Positions = None,
        extrapolate: bool = False,
    ) -> None:
        """Check everything; attach nothing yet. See ``splice`` for the arguments."""
        self._host = host
        self._placements = placements(host, sae, sae_needed=False)
        self._controls = Controls(
            host,
            self._placements,
            k=k,
            error_term=error_term,
            edits=edits,
            positions=positions,
            extrapolate=extrapolate,
        )
        self._codes = Codes(self._controls.name_of)
        self._caches: CacheMemory[Seen] = CacheMemory()
        self._guard = Guard(self._placements, self._controls, self._caches)
        self._attached: ExitStack | None = None

    def __setattr__(self, name: str, value: object) -> None:
        """Set a control.

        Raises:
            AttributeError: another name, whose value would have no effect.
        """
        settable = ("k", "edits", "error_term", "positions")
        if not name.startswith("_") and name not in settable:
            raise AttributeError(
                f"a splice has no {name!r} to set; "
                "what can be set: k, edits, error_term, positions"
            )
        super().__setattr__(name, value)

    @property
    def k(self) -> Any:
        """The number of features a token keeps; a dict by site name where sites differ.

        Assign a number, a tensor of numbers by position of the text (``[pos]`` or
        ``[batch, pos]``), a rule such as ``until_fvu(0.1)``, a bound on what the splice
        does to the prediction such as ``until_kl(0.05)``, or None for the k that the
        SAE was trained at, which for an SAE that was not trained at a k is every active
        feature. A mapping changes the sites it names and leaves the others.
        """
        return self._controls.k

    @k.setter
    def k(self, k: K) -> None:
        self._controls.k = k

    @property
    def edits(self) -> Any:
        """The edits, as a tuple where one site is spliced, else tuples by site name.

        Assign a list of edits where one site is spliced; lists by site name, which
        change the sites they name and leave the others; an empty list, for no edits
        anywhere.
        """
        return self._controls.edits

    @edits.setter
    def edits(self, edits: Edits) -> None:
        self._controls.edits = edits

    @property
    def error_term(self) -> ErrorTerm:
        """Whether to add back what the SAE leaves out; False, True or "reference".

        With True and no edit, the output is the activation itself, to the bit.
        ``"reference"`` adds back what the SAE leaves out at the k it was trained at, so
        that a smaller k leaves features out of the model.
        """
        return self._controls.error_term

    @error_term.setter
    def error_term(self, error_term: ErrorTerm) -> None:
        self._controls.error_term = error_term

    @property
    def positions(self) -> Positions:
        """Where to splice, as it was assigned.

        Assign a slice of positions, a list of them, a boolean mask ``[batch, pos]`` or
        ``[pos]``, ``"all"``, or None for the default: everywhere except on the special
        tokens that the SAE says it was not trained on. Positions that are left out keep
        their exact bits, and their codes are zero. So does padding, always. Positions
        count the tokens of each row's text, from 0 at its first token or from -1 at its
        last so far, however the row is padded, packed or cached. A mask is over the
        columns of the batch, and in generation with a cache covers the prompt alone.
        """
        return self._controls.positions

    @positions.setter
    def positions(self, positions: Positions) -> None:
        self._controls.positions = positions

    @property
    def codes(self) -> dict[str, SparseCode]:
        """The features of the last run by site name, in either spelling of the name.

        They are those that the SAE encodes, before edits, at every position that was
        spliced, and zeros elsewhere. In cached generation they are of the last step.
        """
        return self._codes

    @property
    def chosen(self) -> ChosenK | None:
        """What ``until_kl`` chose for the text of the last run; None for other k."""
        return self._guard.chosen

    @property
    def saes(self) -> Mapping[str, SAE]:
        """The SAEs by site name."""
        return self._controls.saes

    def generate(
        self,
        tokens: Any,
        max_new_tokens: int = 20,
        *,
        next_token: NextToken = _likeliest,
    ) -> Int[Tensor, "batch pos"]:
        """Continue texts where k is ``until_kl``, with one run for every token.

        ::

            spliced = sle.splice(model, sae, k=sle.until_kl(0.05))
            ids = spliced.generate("The Eiffel Tower is in", max_new_tokens=50)
            spliced.chosen.ks  # of every token but the last, which was not read

        A model's own ``generate`` runs it again at the k that was chosen, so that what
        listens to it sees that run. Here the next token is taken from the logits by
        which k is chosen: the tokens are the same, but for rounding where two are
        equally likely, and a token takes one run in the place of two. ``codes`` stay
        those of the last run of the model.

        The splice need not be active. It always generates as many tokens as it is told.

        Args:
            tokens: the prompts, in any form that ``token_batch`` takes.
            max_new_tokens: how many tokens to add to each.
            next_token: chooses the ids ``[batch]`` (or ``[batch, 1]``) of the next
                tokens by their logits ``[batch, d_vocab]``; by default the likeliest.

        Returns:
            The ids of prompts and new tokens; rows of different lengths are padded on
            the left.

        Raises:
            InvalidArgument: k is not ``until_kl``; an invalid option; an edit that
                needs the mean of a run; or ``next_token`` returns something else.
            UnsupportedHost: the model has no cache of transformers.
            NonFinite: its logits hold NaN or infinity.
        """
        number = arguments.positive_int(max_new_tokens, "max_new_tokens")
        if not callable(next_token):
            raise InvalidArgument(
                "next_token must be a function from logits [batch, d_vocab] to ids "
                f"[batch]; got an object of type {type(next_token).__name__}"
            )
        host = self._host.plain()
        batch = token_rows(host, tokens).left_padded()
        return self._guard.generate(host, batch, number, next_token)

    def attach(self) -> "Splice":
        """Do what entering the ``with`` block does.

        For a splice that should outlive a notebook cell; ``detach`` takes it out again.

        Raises:
            InvalidArgument: the splice is active already.
        """
        if self._attached is not None:
            raise InvalidArgument(
                "this splice is active already; leave its with block, or detach it, "
                "first"
            )
        self._attached = attached(
            self._host, self._placements, self._codes, self._guard, self._caches
        )
        return self

    def detach(self) -> None:
        """Take the splice out of the model; harmless when it is not active."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    def apply(self) -> "Splice":
        """Splice one run, or one step of a generation, inside an nnsight trace.

        ::

            with lm.trace(prompt):
                sle.splice(lm, sae, k=8).apply()
                logits = lm.output.logits.save()

        It asks for the model's input first, so call it before anything else of the run,
        and in a generation at every step. It is sent to a server with the trace.
        Several sites are met in the model's order where all have TransformerLens names,
        else in the order in which they were passed.

        Raises:
            InvalidArgument: not an nnsight model, or no trace is running.
        """
        host = self._host
        if not isinstance(host, TracingHost):
            raise InvalidArgument(
                "apply() is for traces of nnsight models; on this one use the splice "
                "as a with block, or attach()"
            )
        apply_now(host, self._placements, self._codes, self._guard, self._caches)
        return self

    def __enter__(self) -> "Splice":
        """Activate."""
        return self.attach()

    def __exit__(self, *_: object) -> None:
        """Deactivate."""
        self.detach()

    def __repr__(self) -> str:
        """Where, at which k, with which edits, and whether it is active."""
        state = "not active" if self._attached is None else "active"
        return f"Splice({self._controls}; {state})"

    def __getstate__(self) -> dict[str, Any]:
        """The state without the attachment.

        A copy, such as the one nnsight sends to a server with its edits, is not
        attached.
        """
        return {**self.__dict__, "_attached": None}
