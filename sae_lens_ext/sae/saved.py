"""An SAE as files, and an SAE of SAELens as one of this package."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.sae.parameters import SAEParameters
from sae_lens_ext.sae.pretrained import (
    read_pretrained,
    read_sae_lens,
    write_pretrained,
)
from sae_lens_ext.sae.tensors import (
    CONSTANTS,
    check_weights,
    matrices_in_dtype,
    with_tensors,
)

# Not typing.Self, which the run-time shape checks of the tests do not know.
SelfT = TypeVar("SelfT", bound="SavedSAE")


class SavedSAE(SAEParameters):
    """The tensors of an SAE, written to files and read from them; see ``SAE``."""

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | str | None = None
    ) -> Path:
        """Write a folder that this package and SAELens 6 can read; returns it.

        The weights are stored folded, as ``SAE.load_from_disk`` of SAELens expects; the
        constants go into a file of their own. The folder is replaced in one step.

        Args:
            folder: where to write.
            dtype: of the matrices in the file, such as ``"bfloat16"``, which halves it.
                Biases, thresholds and constants keep the SAE's dtype: folded biases
                hold the mean of the activations, beside which a feature is small. What
                is read has the wider dtype everywhere. None keeps the SAE's.

        Raises:
            NonFinite: the weights hold NaN or infinity, or numbers beyond ``dtype``.
                Nothing is written.
            InvalidArgument: there is no such dtype, or the folder cannot be written to.
        """
        matrices = {}
        if dtype is not None:
            matrices = matrices_in_dtype(arguments.dtype(dtype), self.weights())
        constants = {}
        sae = self
        if self.is_normalized():
            constants = {name: getattr(self, name) for name in CONSTANTS}
            # Biases are folded with the matrices that the file holds.
            sae = with_tensors(self, matrices).folded()
        weights = {**sae.weights(), **matrices}
        return write_pretrained(folder, self.config, weights, constants)

    @classmethod
    def from_pretrained(
        cls: type[SelfT],
        folder_or_repo: str | Path,
        *,
        subfolder: str | Path | None = None,
        revision: str | None = None,
        folded: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> SelfT:
        """Load an SAE from a folder, or from a Hugging Face repository ``owner/name``.

        Args:
            folder_or_repo: a folder with an SAE of this package, SAELens, Gemma Scope,
                Qwen-Scope, sparsify, dictionary_learning or another published layout
                (docs/published_saes.md lists them), or a repository with one.
            subfolder: where in it the SAE is, if not at the top; a folder, or the file
                itself where a layout has a file per SAE.
            revision: branch, tag or commit of the repository.
            folded: whether the mean and scale of the activations stay inside the
                weights (fastest, features in units of the activations) or are taken out
                again, as in training.
            device: where to put the weights.
            dtype: what to cast them to, as a torch dtype or its name; None keeps the
                file's.

        Raises:
            FormatError: not an SAE in a known layout, or a damaged one, or one with an
                option that this package cannot apply.
            NonFinite: the weights hold NaN or infinity, or numbers beyond ``dtype``.
            InvalidArgument: there is no such device or dtype.
        """
        # Checked first, because a download may take long.
        if dtype is not None:
            dtype = arguments.dtype(dtype)
        device = arguments.device(device)

        config, checkpoint = read_pretrained(folder_or_repo, subfolder, revision)
        sae = cls.from_tensors(config, **checkpoint.tensors)
        if checkpoint.normalization and not folded:
            sae = sae.unfolded(**checkpoint.normalization)
        sae = sae.to(device=device, dtype=dtype).eval()
        check_weights(config, sae.weights())
        return sae

    @classmethod
    def from_sae_lens(cls: type[SelfT], sae: Any) -> SelfT:
        """An SAE with the weights of one that SAELens has in memory.

        ::

            theirs = sae_lens.SAE.from_pretrained(release, sae_id)
            sae = sle.SAE.from_sae_lens(theirs)

        Raises:
            InvalidArgument: not an SAE of SAELens.
            FormatError: an architecture or an option that this package cannot apply.
            NonFinite: the weights hold NaN or infinity.
        """
        config, checkpoint = read_sae_lens(sae)
        return cls.from_tensors(config, **checkpoint.tensors).eval()
