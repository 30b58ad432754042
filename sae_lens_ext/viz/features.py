"""Which features a text activates, and where."""

from dataclasses import dataclass

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.sae import SparseCode


@dataclass(frozen=True)
class FeatureOnText:
    """One feature on one text."""

    feature: int
    """Its index."""
    activations: tuple[float, ...]
    """Its activation on every token; 0 where it is not one of the k strongest."""

    def fires_on(self, tokens: list[str]) -> list[tuple[str, float]]:
        """The tokens it is active on, with their activations, strongest first."""
        pairs = zip(tokens, self.activations, strict=True)
        active = [(token, value) for token, value in pairs if value > 0]
        return sorted(active, key=lambda pair: -pair[1])


def strongest_features(code: SparseCode, n: int = 5) -> list[FeatureOnText]:
    """The n features with the largest activation anywhere in a text, largest first.

    Raises:
        ShapeMismatch: ``code`` is not that of one text, ``[pos, k]``.
    """
    if code.values.ndim != 2:
        raise ShapeMismatch(
            "give the code of one text, [pos, k], such as code[0]; this one is "
            f"{list(code.values.shape)}"
        )
    dense = code.dense()
    peaks, features = dense.amax(dim=0).topk(min(n, code.d_sae))
    return [
        FeatureOnText(feature, tuple(dense[:, feature].tolist()))
        for feature, peak in zip(features.tolist(), peaks.tolist(), strict=True)
        if peak > 0
    ]
