"""Sparse autoencoders that are good at every k, spliced into language models.

>>> import sae_lens_ext as sle
>>> sae = sle.SAE(sle.SAEConfig(d_model=16, d_sae=64, k=8))

Public names are loaded on first use, so that importing the package loads neither a host
library nor a model library.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

# Public name -> the module it comes from. The imports below are the same list for type
# checkers; a test compares them.
_PUBLIC = {
    "SAE": "sae",
    "SAEConfig": "sae",
    "SparseCode": "sae",
    "save_circuit_tracer": "sae",
    "Ablate": "interventions",
    "AddDirection": "interventions",
    "ChosenK": "interventions",
    "Clamp": "interventions",
    "Patch": "interventions",
    "Run": "interventions",
    "Scale": "interventions",
    "Splice": "interventions",
    "Steer": "interventions",
    "difference_in_means": "interventions",
    "edits_from_json": "interventions",
    "edits_to_json": "interventions",
    "splice": "interventions",
    "sweep_k": "interventions",
    "until_fvu": "interventions",
    "until_kl": "interventions",
    "TokenBatch": "hosts",
    "token_batch": "hosts",
    "feature_agreement": "training",
    "train": "training",
    "labels": "features",
    "push_to_hub": "publishing",
    "DialState": "explore",
    "dial": "explore",
    "demo_sae": "demo",
    "load_bundled": "demo",
    "BackendError": "errors",
    "FormatError": "errors",
    "InvalidArgument": "errors",
    "InvalidK": "errors",
    "MissingDependency": "errors",
    "NonFinite": "errors",
    "RankLost": "errors",
    "SaeLensExtError": "errors",
    "ShapeMismatch": "errors",
    "UnknownSite": "errors",
    "UnsupportedHost": "errors",
}

# Packages whose names are used with theirs before: ``sle.circuits.effects``.
_PACKAGES = ("circuits", "features")

# Type checkers take the list from the imports below instead.
__all__ = [*_PUBLIC, *_PACKAGES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from sae_lens_ext import circuits as circuits
    from sae_lens_ext import features as features
    from sae_lens_ext.demo import demo_sae as demo_sae
    from sae_lens_ext.demo import load_bundled as load_bundled
    from sae_lens_ext.errors import BackendError as BackendError
    from sae_lens_ext.errors import FormatError as FormatError
    from sae_lens_ext.errors import InvalidArgument as InvalidArgument
    from sae_lens_ext.errors import InvalidK as InvalidK
    from sae_lens_ext.errors import MissingDependency as MissingDependency
    from sae_lens_ext.errors import NonFinite as NonFinite
    from sae_lens_ext.errors import RankLost as RankLost
    from sae_lens_ext.errors import SaeLensExtError as SaeLensExtError
    from sae_lens_ext.errors import ShapeMismatch as ShapeMismatch
    from sae_lens_ext.errors import UnknownSite as UnknownSite
    from sae_lens_ext.errors import UnsupportedHost as UnsupportedHost
    from sae_lens_ext.explore import DialState as DialState
    from sae_lens_ext.explore import dial as dial
    from sae_lens_ext.features import labels as labels
    from sae_lens_ext.hosts import TokenBatch as TokenBatch
    from sae_lens_ext.hosts import token_batch as token_batch
    from sae_lens_ext.interventions import Ablate as Ablate
    from sae_lens_ext.interventions import AddDirection as AddDirection
    from sae_lens_ext.interventions import ChosenK as ChosenK
    from sae_lens_ext.interventions import Clamp as Clamp
    from sae_lens_ext.interventions import Patch as Patch
    from sae_lens_ext.interventions import Run as Run
    from sae_lens_ext.interventions import Scale as Scale
    from sae_lens_ext.interventions import Splice as Splice
    from sae_lens_ext.interventions import Steer as Steer
    from sae_lens_ext.interventions import difference_in_means as difference_in_means
    from sae_lens_ext.interventions import edits_from_json as edits_from_json
    from sae_lens_ext.interventions import edits_to_json as edits_to_json
    from sae_lens_ext.interventions import splice as splice
    from sae_lens_ext.interventions import sweep_k as sweep_k
    from sae_lens_ext.interventions import until_fvu as until_fvu
    from sae_lens_ext.interventions import until_kl as until_kl
    from sae_lens_ext.publishing import push_to_hub as push_to_hub
    from sae_lens_ext.sae import SAE as SAE
    from sae_lens_ext.sae import SAEConfig as SAEConfig
    from sae_lens_ext.sae import SparseCode as SparseCode
    from sae_lens_ext.sae import save_circuit_tracer as save_circuit_tracer
    from sae_lens_ext.training import feature_agreement as feature_agreement
    from sae_lens_ext.training import train as train


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names and the module's own."""
    return sorted({*globals(), *_PUBLIC, *_PACKAGES})
