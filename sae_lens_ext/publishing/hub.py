"""Upload an SAE with its card to the Hugging Face hub."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, SaeLensExtError
from sae_lens_ext.publishing.card import model_card, repository_name
from sae_lens_ext.publishing.results import save_results
from sae_lens_ext.sae import SAE


def push_to_hub(
    sae: SAE,
    repo_id: str,
    *,
    table: Any = None,
    training: Mapping[str, Any] | None = None,
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a sparse autoencoder",
) -> str:
    """Upload an SAE, its card and its results in one commit; returns the address.

    ::

        table = sle.sweep_k(model, held_out, sae)
        sle.push_to_hub(sae, "me/my-sae", table=table, license="apache-2.0")
        sae = sle.SAE.from_pretrained("me/my-sae")

    Args:
        sae: the SAE or transcoder.
        repo_id: the repository, ``owner/name``; made if it is not there.
        table: what ``sweep_k`` returned for it; the card shows it with a picture.
        training: facts of its training by name, for the card.
        license: as in ``model_card``.
        private: whether a new repository is private.
        token: an access token; by default that of ``hf auth login``.
        commit_message: of the commit.

    Raises:
        InvalidArgument: not an SAE, an invalid ``repo_id``, or a table that is not
            what ``sweep_k`` returned.
        NonFinite: the SAE holds NaN or infinity.
        SaeLensExtError: the hub refused, or cannot be reached; nothing is left there
            but, at most, a new empty repository.
        MissingDependency: huggingface_hub, or with a table matplotlib, is not
            installed.
    """
    if not isinstance(sae, SAE):
        raise InvalidArgument(
            f"sae must be an SAE; got an object of type {type(sae).__name__}"
        )
    repo_id = repository_name(repo_id)
    private = arguments.flag(private, "private")
    hub = require("huggingface_hub", "Uploading to the hub")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sae.save_pretrained(folder)
        picture = None
        if table is not None:
            picture = save_results(folder, table).picture.name
        card = model_card(
            sae,
            repo_id=repo_id,
            table=table,
            training=training,
            picture=picture,
            license=license,
        )
        folder.joinpath("README.md").write_text(card, encoding="utf-8")

        api = hub.HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message
            )
        # Refused, unreachable or offline: the library below has many errors for it.
        except Exception as error:
            raise SaeLensExtError(_reason(repo_id, error)) from error
    return f"{api.endpoint}/{repo_id}"


def _reason(repo_id: str, error: Exception) -> str:
    (first, *_) = str(error).splitlines() or [type(error).__name__]
    return (
        f"{repo_id} was not uploaded: {first.rstrip('.')}. Log in with "
        "`hf auth login`, or pass a token that may write there"
    )
