"""A squared error in which some directions count more than others.

``ErrorMetric`` changes coordinates so that a plain squared error is one by a matrix.
``train`` takes it as ``metric``; ``fisher_metric`` estimates one from a model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import FormatError, InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.formats.atomic import replacing, saving
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.activations import Activations

METRIC_FILE = "metric.safetensors"
"""The file in the folder of a run."""

_CPU = torch.device("cpu")

# A float32 copy of all activations would be twice their size.
_TOKENS_PER_PRODUCT = 1 << 14


@dataclass(frozen=True, eq=False)
class ErrorMetric:
    """A squared error e G e^T in the place of e e^T.

    ::

        metric = fisher_metric(model, tokens, "blocks.9.hook_resid_post")
        trained = sle.train(activations, config, metric=metric)

    With R the symmetric square root of G, the squared error in the coordinates
    (x - mean) R is the one by G. An SAE that was trained in them is an SAE of x with
    other weights: the same features are active, with the same values. ``train`` does
    both changes; ``apply`` and ``undo`` are for a training loop of your own.
    """

    matrix: Float[Tensor, "d_model d_model"]
    """The matrix G, symmetric and positive definite, in float64."""
    mean: Float[Tensor, " d_model"]
    """The centre of the coordinates, in float64."""
    hook_name: str
    """The site."""
    about: str = ""
    """What it is, in words; saved with it, and a part of what tells metrics apart."""
    _powers: dict[tuple[float, torch.device, torch.dtype], Tensor] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        """Check the matrix.

        Raises:
            InvalidArgument: it is not symmetric and positive definite, or no tensor.
            ShapeMismatch: the mean has another width.
            NonFinite: a number is NaN or infinite.
        """
        matrix = self.matrix
        if not isinstance(matrix, Tensor) or not isinstance(self.mean, Tensor):
            raise InvalidArgument(
                "the matrix and the mean of a metric must be tensors; got "
                f"{type(matrix).__name__} and {type(self.mean).__name__}"
            )
        arguments.string(self.hook_name, "hook_name")
        if not (torch.isfinite(matrix).all() and torch.isfinite(self.mean).all()):
            raise NonFinite("the matrix and the mean of a metric must be finite")
        if matrix.shape != (len(self.mean), len(self.mean)):
            raise ShapeMismatch(
                f"the matrix of a metric must be [d_model, d_model] for a mean of "
                f"{len(self.mean)} numbers; got {list(matrix.shape)}"
            )
        is_symmetric = torch.allclose(matrix, matrix.T, rtol=1e-6, atol=0)
        if not is_symmetric or not bool(torch.linalg.eigvalsh(matrix)[0] > 0):
            raise InvalidArgument(
                "the matrix of a metric must be symmetric and positive definite"
            )

    @property
    def d_model(self) -> int:
        """The width of the activations."""
        return len(self.mean)

    @property
    def digest(self) -> str:
        """The sha256 of all that tells it from others."""
        hashed = hashlib.sha256(f"{self.hook_name} {self.about}".encode())
        for tensor in (self.matrix, self.mean):
            hashed.update(tensor.double().cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()

    def apply(self, values: Activations | Tensor) -> Any:
        """Activations in the coordinates whose squared error is the one by G.

        Args:
            values: activations of the site, ``[..., d_model]``, as a tensor or as
                ``collect_activations`` returns them.

        Returns:
            The same kind of object, in the same dtype. It is computed in float32, or
            for float64 in that.

        Raises:
            InvalidArgument: activations of another site.
            ShapeMismatch: activations of another width.
        """
        if isinstance(values, Activations):
            if values.hook_name != self.hook_name:
                raise InvalidArgument(
                    f"the metric is of {self.hook_name} and the activations are of "
                    f"{values.hook_name}"
                )
            return replace(values, values=self.apply(values.values))

        if values.shape[-1:] != (self.d_model,):
            raise ShapeMismatch(
                f"the metric is of width {self.d_model}, and the activations are "
                f"{list(values.shape)}"
            )
        root = self._power(0.5, values.device, _product_dtype(values))
        mean = self.mean.to(root)
        flat = values.reshape(-1, self.d_model)
        new = torch.empty_like(flat)
        for start in range(0, len(flat), _TOKENS_PER_PRODUCT):
            part = slice(start, start + _TOKENS_PER_PRODUCT)
            new[part] = (flat[part].to(root.dtype) - mean) @ root
        return new.reshape(values.shape)

    def undo(self, sae: SAE) -> SAE:
        """The SAE of activations as they are, of one that was trained in coordinates.

        Its decoder rows have norms of their own: the features of a token keep their
        values, and so their order. Of a transcoder, what it writes is brought back.

        Args:
            sae: what was trained on ``apply(...)``; a transcoder, with that as its
                targets.

        Raises:
            InvalidArgument: an SAE that normalises every token, or one of another site;
                or a transcoder with a pre-bias.
            ShapeMismatch: an SAE of another width.
        """
        config = sae.config
        if config.token_norm != "none":
            raise InvalidArgument(
                "a metric is for SAEs that do not normalise every token; this one has "
                f"token_norm={config.token_norm!r}"
            )
        if config.is_transcoder and config.apply_b_dec_to_input:
            raise InvalidArgument(
                "this transcoder subtracts b_dec from what it reads, which the metric "
                "is not of; move that into b_enc first"
            )
        site = config.hook_name_out if config.is_transcoder else config.hook_name
        if site not in (None, self.hook_name):
            raise InvalidArgument(
                f"the metric is of {self.hook_name} and the SAE is of {site}"
            )
        if config.output_width != self.d_model:
            raise ShapeMismatch(
                f"the metric is of width {self.d_model}, and the SAE reconstructs "
                f"activations of width {config.output_width}"
            )
        tensors = sae.weights()
        if not config.is_transcoder:
            tensors["activation_mean"] = sae.activation_mean
            tensors["activation_scale"] = sae.activation_scale
        in_float64 = {
            name: tensor.detach().to("cpu", torch.float64)
            for name, tensor in tensors.items()
        }
        dtype = sae.W_dec.dtype
        new = {name: part.to(dtype) for name, part in self.undone(in_float64).items()}
        return SAE.from_tensors(config, **new).to(sae.W_dec.device).train(sae.training)

    def errors(self, errors: Float[Tensor, "*batch d_model"]) -> Tensor:
        """Errors of activations as they are, from errors in the coordinates.

        Args:
            errors: differences of activations in the coordinates.
        """
        inverse = self._power(-0.5, errors.device, _product_dtype(errors))
        return errors.to(inverse.dtype) @ inverse

    def applied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights in the coordinates of an SAE of activations as they are.

        Args:
            tensors: the weights in float64, on the CPU; of an SAE also its constants
                ``activation_mean`` and ``activation_scale``, without which they are
                those of a transcoder.
        """
        new = self._changed(tensors, 0.5)
        centre = "activation_mean" if "activation_mean" in tensors else "b_dec"
        new[centre] = (tensors[centre] - self.mean) @ self._power(0.5)
        return new

    def undone(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of ``applied``."""
        new = self._changed(tensors, -0.5)
        centre = "activation_mean" if "activation_mean" in tensors else "b_dec"
        new[centre] = tensors[centre] @ self._power(-0.5) + self.mean
        return new

    def _changed(
        self, tensors: Mapping[str, Tensor], exponent: float
    ) -> dict[str, Tensor]:
        """Weights for other coordinates; the centre does not move yet."""
        matrix = self._power(exponent)
        new = dict(tensors)
        for name in ("W_dec", "b_dec", "W_skip"):
            if name in tensors:
                new[name] = tensors[name] @ matrix
        # A transcoder reads other activations than it writes.
        if "activation_mean" in tensors:
            new["W_enc"] = self._power(-exponent) @ tensors["W_enc"]
        return new

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        path = Path(path)
        tensors = {
            "matrix": self.matrix.contiguous(),
            "mean": self.mean.contiguous(),
        }
        facts = json.dumps({"hook_name": self.hook_name, "about": self.about})
        with replacing(path) as temporary, saving(path):
            save_file(tensors, temporary, metadata={"error_metric": facts})

    @classmethod
    def load(cls, path: str | Path) -> "ErrorMetric":
        """Read a file that ``save`` wrote, such as that of a run.

        Raises:
            FormatError: the file is missing, of another kind, or cut short.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["error_metric"])
                return cls(file.get_tensor("matrix"), file.get_tensor("mean"), **facts)
        except (
            SafetensorError,
            OSError,
            KeyError,
            TypeError,
            json.JSONDecodeError,
        ) as error:
            raise FormatError(
                f"{path} is not a file of an error metric, or was cut short ({error})"
            ) from error

    def _power(
        self,
        exponent: float,
        device: torch.device = _CPU,
        dtype: torch.dtype = torch.float64,
    ) -> Float[Tensor, "d_model d_model"]:
        key = (exponent, device, dtype)
        if key not in self._powers:
            values, vectors = torch.linalg.eigh(self.matrix.double().cpu())
            power = (vectors * values**exponent) @ vectors.T
            self._powers[key] = power.to(device, dtype)
        return self._powers[key]

    def __repr__(self) -> str:
        """The site, its width, and what it is."""
        about = f": {self.about}" if self.about else ""
        return f"ErrorMetric({self.hook_name}, d_model={self.d_model}{about})"


def _product_dtype(values: Tensor) -> torch.dtype:
    """Of products with activations: float64 takes several times as long."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
