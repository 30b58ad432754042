"""The bound by which a guarded run chooses k; ``guard`` does the choosing."""

from collections.abc import Iterable
from dataclasses import dataclass

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.sae import SAE

# With the reference they are 8 rows, which take well below the time of 16 on a CPU. A
# token of a small k is rare, so they lie closer where k is large (`python -m benchmarks
# until_kl` compares lists).
_N_CANDIDATES = 7
_EXPONENT = 1.5
# Beyond, an SAE that was not trained at a k keeps all the features it can.
_LARGEST = 256


@dataclass(frozen=True)
class UntilKL:
    """The value of k that ``until_kl`` makes.

    Attributes:
        bound: the largest divergence of the next-token distribution, in nats.
        ks: the values of k to choose from, rising; None for the default.
    """

    bound: int | float
    ks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the bound and the values of k.

        Raises:
            InvalidArgument: a bound that is not a number of at least 0.
            InvalidK: ``ks`` is empty, or holds something else than positive integers.
        """
        bound = arguments.as_real(arguments.as_python(self.bound))
        # NaN is not at least 0 either.
        if not bound >= 0:
            raise InvalidArgument(
                "bound must be a number of nats of at least 0, such as 0.05; got "
                f"{self.bound!r}"
            )
        object.__setattr__(self, "bound", float(bound))
        if self.ks is not None:
            object.__setattr__(self, "ks", _rising(self.ks))

    def candidates(self, largest: int) -> tuple[int, ...]:
        """The values of k to choose from, rising, where ``largest`` is possible."""
        if self.ks is not None:
            return self.ks
        top = min(largest, _LARGEST)
        shares = [number / _N_CANDIDATES for number in range(2, _N_CANDIDATES + 1)]
        ks = {max(1, round(top * share**_EXPONENT)) for share in shares}
        return tuple(sorted({1, *ks, largest}))

    def check(self, sae: SAE) -> None:
        """Check that an SAE can serve every k.

        Raises:
            InvalidK: one is above the k that it was trained at, or its features.
        """
        largest = sae.config.k or sae.config.d_sae
        for k in self.ks or ():
            if k > largest:
                raise InvalidK(
                    f"k={k} is above k={largest}, the largest that until_kl can choose "
                    "for this SAE, also with extrapolate=True; leave it out of ks"
                )

    def __repr__(self) -> str:
        """The call that makes it."""
        if self.ks is None:
            return f"until_kl({self.bound})"
        return f"until_kl({self.bound}, ks={list(self.ks)})"


def until_kl(bound: int | float, *, ks: Iterable[int] | None = None) -> UntilKL:
    """Give each token the smallest k that keeps the next-token distribution.

    ::

        with sle.splice(model, sae, k=sle.until_kl(0.05)) as spliced:
            text = model.generate(tokens, max_new_tokens=50)
            spliced.chosen.ks, spliced.chosen.kls  # of every token, [batch, pos]

    A token takes the smallest k at which KL(reference || spliced) of the next token is
    at most ``bound``, given the k of the tokens before it. The reference is the model
    with nothing left out of it: the bare model, or where there are edits the model with
    the same edits and the error term. A token for which no k is enough takes the one
    of the least divergence, and ``Splice.chosen`` says so.

    Before every run of the spliced model, the reference and the values of k run as rows
    of one batch, one column of spliced tokens after the other, each with the keys and
    values of the k that was chosen before. The run itself then is that of a splice
    with these k, so caches, hooks and codes are what they are with numbers.
    ``Splice.generate`` generates without that run, in about half the time.

    Several sites share one k, up to what each SAE was trained at. In such a run an edit
    cannot take the mean of the run, and rows of a batch must not depend on each other.

    Args:
        bound: the divergence in nats, at least 0.
        ks: the values of k to choose from; each costs a row of the batch. None for 7
            values from 1 to the k that the SAE was trained at, closer together where
            they are large; for an SAE that was not trained at a k, to 256, and every
            active feature.

    Raises:
        InvalidArgument: ``bound`` is not a number of at least 0.
        InvalidK: ``ks`` is empty, or holds something else than positive integers.
    """
    return UntilKL(bound, None if ks is None else _rising(ks))


def _rising(ks: object) -> tuple[int, ...]:
    numbers = arguments.as_integers(ks)
    if not numbers or min(numbers) < 1:
        raise InvalidK(f"ks must be a list of positive integers; got {described(ks)}")
    return tuple(sorted(set(numbers)))
