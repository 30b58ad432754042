"""What a guarded run chose."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ChosenK:
    """The k of every token of a text, and what the splice does to its prediction.

    Rows and positions are those of the texts, 0 being a text's first token, however the
    rows are padded or cached. In generation the text is the prompt and all that was
    generated from it.

    Attributes:
        ks: the k of every token; 0 where nothing was spliced, and at padding.
        kls: KL(reference || spliced) of the next token, in nats; 0 where ``ks`` is.
        bound: what ``until_kl`` was given.
    """

    ks: Int[Tensor, "batch pos"]
    kls: Float[Tensor, "batch pos"]
    bound: float

    @property
    def is_met(self) -> Bool[Tensor, "batch pos"]:
        """Where the divergence is within the bound; elsewhere it is at no k."""
        return self.kls <= self.bound

    @property
    def mean_k(self) -> float:
        """The mean k of the tokens that were spliced."""
        return self.ks[self.ks > 0].double().mean().item()

    @property
    def mean_kl(self) -> float:
        """The mean divergence at the tokens that were spliced, in nats."""
        return self.kls[self.ks > 0].double().mean().item()

    def __repr__(self) -> str:
        """How many tokens, at which k, and for how many no k was enough."""
        n_tokens = int((self.ks > 0).sum())
        if not n_tokens:
            return "ChosenK(no spliced tokens)"
        n_above = int((~self.is_met).sum())
        return (
            f"ChosenK({n_tokens} tokens, mean k {self.mean_k:.3g}, "
            f"mean KL {self.mean_kl:.3g}; {n_above} above {self.bound:g} at every k)"
        )
