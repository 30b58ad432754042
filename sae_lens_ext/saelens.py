"""HierarchicalTopK as a training architecture of SAELens.

Importing this module registers it, so that SAELens' own runners and trainer accept its
config where they accept that of TopK::

    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
    from sae_lens_ext.saelens import HierarchicalTopKTrainingSAEConfig

    sae = HierarchicalTopKTrainingSAEConfig(d_in=2304, d_sae=65536, k=128)
    config = LanguageModelSAERunnerConfig(sae=sae, ...)
    LanguageModelSAETrainingRunner(config).run()

What SAELens saves for inference is a TopK SAE, which it loads by itself;
``SAE.from_pretrained`` reads from it that every level was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sae_lens  # pyright: ignore[reportMissingImports]

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats import saelens_extension
from sae_lens_ext.kernels import hierarchical_loss
from sae_lens_ext.objectives import HierarchicalTopK

ARCHITECTURE = "hierarchical_topk"
"""The name of the architecture in SAELens."""

# The others are undone behind the decoder, in units that differ between tokens or
# coordinates.
_NORMALIZATIONS = ("none", "expected_average_only_in")


@dataclass
class HierarchicalTopKTrainingSAEConfig(sae_lens.TopKTrainingSAEConfig):
    """The options of SAELens' TopK, and those of the levels.

    Raises:
        InvalidArgument: an invalid option; weights that change during the training,
            whose state a checkpoint of SAELens would lose; or a normalisation that
            SAELens undoes in the decoder.
        InvalidK: the levels do not fit ``k``.
    """

    levels: str | Sequence[int] = "all"
    """See ``HierarchicalTopK``."""
    weights: str | Sequence[float] | None = None
    """See ``HierarchicalTopK``."""
    stride: int = 1
    """See ``HierarchicalTopK``."""

    def __post_init__(self) -> None:
        """Check everything before a model is loaded."""
        if self.weights == "relative":
            raise InvalidArgument(
                "weights must be uniform, ramp, inverse or a number per level in "
                "SAELens, whose checkpoints do not keep the running means of 'relative'"
            )
        if self.normalize_activations not in _NORMALIZATIONS:
            raise InvalidArgument(
                f"normalize_activations must be {' or '.join(_NORMALIZATIONS)} for "
                f"HierarchicalTopK; got {self.normalize_activations!r}"
            )
        super().__post_init__()

    def add_training_info_to_metadata(self) -> None:
        """What SAELens adds, and the levels."""
        super().add_training_info_to_metadata()
        levels = self.objective().levels_at(self.k)
        self.metadata.sae_lens_ext = saelens_extension(levels)

    def objective(self) -> HierarchicalTopK:
        """The objective with these options."""
        levels: Any = self.levels
        weights: Any = self.weights
        return HierarchicalTopK(levels=levels, weights=weights, stride=self.stride)

    @classmethod
    def architecture(cls) -> str:
        """The name that SAELens knows it by."""
        return ARCHITECTURE

    def get_inference_config_class(self) -> type[sae_lens.SAEConfig]:
        """That of a TopK SAE, which it is when it is trained."""
        return sae_lens.TopKSAEConfig


class HierarchicalTopKTrainingSAE(sae_lens.TopKTrainingSAE):
    """SAELens' TopK SAE, trained at every level instead of at k alone."""

    cfg: HierarchicalTopKTrainingSAEConfig  # pyright: ignore

    def training_forward_pass(self, step_input: Any) -> Any:
        """SAELens' step, with the error of every level in place of that at k.

        Errors are sums over coordinates, as in SAELens. That at k stays among the
        losses that are logged, as ``mse_loss``.
        """
        output = super().training_forward_pass(step_input)
        features = output.feature_acts
        if features.is_sparse:
            features = features.to_dense()
        values, indices = features.topk(self.cfg.k)

        decoder = self.W_dec
        if self.cfg.rescale_acts_by_decoder_norm:
            decoder = decoder / decoder.norm(dim=-1, keepdim=True)
        objective = self.cfg.objective()
        loss = self.cfg.d_in * hierarchical_loss(
            values,
            indices,
            decoder,
            self.b_dec,
            step_input.sae_in,
            list(objective.levels_at(self.cfg.k)),
            objective.weights_at(self.cfg.k),
        )
        others = [value for name, value in output.losses.items() if name != "mse_loss"]
        output.loss = loss + sum(others)
        output.losses["hierarchical_loss"] = loss
        return output


sae_lens.register_sae_training_class(
    ARCHITECTURE, HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig
)
