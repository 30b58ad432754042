"""Checks of the objects that users pass to experiments: recipes, tasks, tensors."""

from typing import Any

from torch import Tensor

from sae_lens_ext.errors import InvalidArgument


def check_instance(value: object, kind: type, name: str) -> None:
    """Check that an argument is of a class.

    Raises:
        InvalidArgument: it is not.
    """
    if not isinstance(value, kind):
        raise InvalidArgument(f"{name} must be a {kind.__name__}; got {_kind(value)}")


def check_tensors(**tensors: object) -> None:
    """Check that arguments are torch tensors; their names are those of the keywords.

    Raises:
        InvalidArgument: one is not.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InvalidArgument(f"{name} must be a torch tensor; got {_kind(value)}")


def check_language_model(model: Any) -> None:
    """Check that a model is one of ``transformers``, such as ``BasedForCausalLM``.

    Raises:
        InvalidArgument: it is not.
    """
    if not callable(getattr(model, "get_input_embeddings", None)):
        raise InvalidArgument(
            "model must be a language model of transformers, such as a "
            f"BasedForCausalLM; got {_kind(model)}"
        )


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
