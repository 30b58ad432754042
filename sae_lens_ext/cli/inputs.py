"""The options that commands on a language model and a text share."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.demo import BUNDLED, prepare_bundled
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.interventions.sites import SAEs
from sae_lens_ext.sae import SAE
from sae_lens_ext.text import TextRows
from sae_lens_ext.training.parallel.launched import device_of_rank


class LanguageModel(NamedTuple):
    """A model, where it comes from, and the device that it is on."""

    model: Any
    tokenizer: Any
    name: str
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A language model, which the SAE may name."""

    model: str | None = None
    """Folder or hub name of a model of transformers, or gemma-3-270m, which comes with
    the demo extra; by default the model that the first SAE names."""
    model_dtype: str = "float32"
    """float32 or bfloat16, for the model's own weights."""
    device: str | None = None
    """Device of the model and the SAE; by default a GPU if there is one."""

    def load(self, name: str | None = None, *, progress: bool = True) -> LanguageModel:
        """The model and its tokenizer.

        Args:
            name: what to load where no model was given.
            progress: whether to show progress bars.

        Raises:
            InvalidArgument: no model was given, or an invalid option.
            FormatError: the model cannot be loaded.
        """
        name = self.model if self.model is not None else name
        if name is None:
            raise InvalidArgument(
                "model must name a language model, such as google/gemma-2-2b"
            )
        dtype = arguments.choice(
            self.model_dtype, "model_dtype", choices=("float32", "bfloat16")
        )
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch_device = device_of_rank(arguments.device(device))
        path = prepare_bundled(name, progress=progress) if name in BUNDLED else name
        if not progress:
            logging = require("transformers.utils.logging", "Loading a language model")
            logging.disable_progress_bar()
        model, tokenizer = _load(path, getattr(torch, dtype))
        return LanguageModel(
            model.to(torch_device).eval(), tokenizer, name, torch_device
        )


@dataclass(frozen=True, kw_only=True)
class RequiredModelOptions(ModelOptions):
    """A language model, which has to be named."""

    # Without field(), the default of the class above would stay.
    model: str = field()
    """Folder or hub name of a model of transformers, or gemma-3-270m, which comes with
    the demo extra."""


def _load(path: str | Path, dtype: torch.dtype) -> tuple[Any, Any]:
    transformers = require("transformers", "Loading a language model")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    # What may be wrong with a folder or a repository has many errors there.
    except Exception as error:
        (first, *_) = str(error).strip().splitlines() or [type(error).__name__]
        hint = ""
        if str(path).endswith("gemma-3-270m"):
            hint = "; --model gemma-3-270m is the one that comes with the demo extra"
        raise FormatError(
            f"the model {path} cannot be loaded: {first}{hint}"
        ) from error
    return model, tokenizer


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """A text, as rows of tokens."""

    text: str
    """File, folder or hub dataset with the text."""
    column: str = "text"
    """Column of files and datasets that holds the text."""
    context: int = 128
    """Tokens in a row, the one that begins it included."""
    join_documents: bool = False
    """Whether documents are joined, with an end-of-text token between them, so that
    nothing of them is dropped; for short ones."""

    def all_rows(self, tokenizer: Any) -> TextRows:
        """Rows of tokens of the whole text.

        Raises:
            InvalidArgument: an invalid option.
            FormatError: there is no such text.
        """
        return self._rows_of(self.text, tokenizer, held_out=None)

    def _rows_of(
        self, source: str, tokenizer: Any, *, held_out: bool | None
    ) -> TextRows:
        return TextRows(
            source,
            tokenizer,
            context=self.context,
            column=self.column,
            join_documents=self.join_documents,
            held_out=held_out,
        )


@dataclass(frozen=True, kw_only=True)
class TextOptions(CorpusOptions):
    """A text, and what of it is held out."""

    held_out_text: str | None = None
    """File, folder or hub dataset with the text to evaluate on; by default one document
    in ten of the text, chosen by a hash of it."""

    def rows(self, tokenizer: Any, *, held_out: bool) -> TextRows:
        """Rows of tokens of one side: to train on, or held out.

        Raises:
            InvalidArgument: an invalid option.
            FormatError: there is no such text.
        """
        source = self.text
        if self.held_out_text is not None and _is_same(source, self.held_out_text):
            raise InvalidArgument(
                f"held_out_text is {source}, the text to train on; name another, or "
                "leave it out to hold out one document in ten"
            )
        # With a text of its own to evaluate on, all of the other one is trained on.
        side = held_out if self.held_out_text is None else None
        if held_out and self.held_out_text is not None:
            source = self.held_out_text
        return self._rows_of(source, tokenizer, held_out=side)

    def held_out_tokens(self, tokenizer: Any, n_rows: int) -> torch.Tensor:
        """At most ``n_rows`` rows of held-out tokens, ``[row, context]``.

        Raises:
            InvalidArgument: the held-out text has not a single row.
            FormatError: there is no such text.
        """
        rows = self.rows(tokenizer, held_out=True)
        try:
            tokens = rows.next_rows(n_rows)
        except InvalidArgument as error:
            raise InvalidArgument(f"of the held-out text, {error}") from error
        # None comes at the end of a text, behind its first row.
        assert tokens is not None
        return tokens


def _is_same(text: str, other: str) -> bool:
    """Whether two texts are one: of the same name, or the same file or folder."""
    paths = Path(text).expanduser(), Path(other).expanduser()
    if all(path.exists() for path in paths):
        return paths[0].samefile(paths[1])
    return text == other


def placed(name: str, sae: SAE, hook_name: str | None) -> SAEs:
    """An SAE that knows its site, or one at the site that an option names.

    Args:
        name: of the SAE, for the error.
        sae: the SAE.
        hook_name: where an SAE belongs whose files do not say it.

    Raises:
        InvalidArgument: neither says where it belongs.
    """
    if sae.config.hook_name is not None:
        return sae
    if hook_name is None:
        raise InvalidArgument(
            f"hook_name must name the site of {name}, whose files do not say it"
        )
    return {hook_name: sae}


def load_sae(name: str) -> SAE:
    """The SAE of a folder, or of ``owner/name/folder/inside`` on the hub.

    Raises: as ``SAE.from_pretrained``.
    """
    parts = Path(name).parts
    subfolder = None
    if len(parts) > 2 and not Path(name).exists() and not Path(name).is_absolute():
        name = "/".join(parts[:2])
        subfolder = "/".join(parts[2:])
    try:
        return SAE.from_pretrained(name, subfolder=subfolder)
    except FormatError as error:
        # Commands have no such option.
        hint = re.sub(
            r"choose (it|one) with subfolder=", r"give the path of \1", str(error)
        )
        raise FormatError(hint) from error
