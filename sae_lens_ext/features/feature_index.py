"""An index of features that is open."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._tokenizers import check_tokenizer
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.features.folder import Contents, read_contents
from sae_lens_ext.features.identity import sae_facts
from sae_lens_ext.features.labels import Labels, labels_of
from sae_lens_ext.features.page import page_of
from sae_lens_ext.features.reader import only_place
from sae_lens_ext.features.search import active_features, only_on
from sae_lens_ext.formats.paths import checked_path
from sae_lens_ext.hosts import host_for, shown_name
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs
from sae_lens_ext.training.stream.states import differences
from sae_lens_ext.viz.pages import FeaturePage, write_dashboard


class FeatureIndex:
    """What an SAE's features are active on, and what they write.

    ``index`` makes one, and ``open`` opens it again. With the model and the SAE, it
    also finds features on texts: ``of``, ``search``.

    Attributes:
        folder: where it is.
        labels: labels of features, if they were given.
    """

    def __init__(
        self,
        folder: Path,
        contents: Contents,
        *,
        model: Any = None,
        sae: Mapping[Any, Any] | None = None,
        labels: Mapping[int, str | None] | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Take what was read; ``open`` does."""
        self.folder = folder
        self.labels: Mapping[int, str | None] = labels or {}
        self._contents = contents
        self._model = model
        self._sae = sae
        self._tokenizer = tokenizer

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: Any = None,
        sae: SAEs | None = None,
        *,
        labels: Labels = None,
        tokenizer: Any = None,
    ) -> "FeatureIndex":
        """Open an index that is complete.

        Args:
            folder: where ``index`` wrote it.
            model: for ``of`` and ``search``. It may be another one than that of the
                index, such as its fine-tuned version.
            sae: the SAE of the index, for the same.
            labels: as in ``labelled``.
            tokenizer: for a model that has none.

        Raises:
            FormatError: not a complete index, or a damaged one.
            InvalidArgument: another SAE than that of the index; a model without an SAE;
                or not a tokenizer.
        """
        folder = checked_path(folder, "folder")
        if tokenizer is not None:
            check_tokenizer(tokenizer, "decode")
        contents = read_contents(folder)
        placed = None
        if (model is None) != (sae is None):
            raise InvalidArgument("give both the model and the SAE, or neither of them")
        if model is not None and sae is not None:
            placed = _placed(model, sae, contents)
        opened = cls(folder, contents, model=model, sae=placed, tokenizer=tokenizer)
        return opened if labels is None else opened.labelled(labels)

    def labelled(self, labels: Labels) -> "FeatureIndex":
        """The same index with labels, which stand wherever a feature's number does.

        Args:
            labels: by feature, such as ``sle.labels`` returns them; or a CSV or JSON
                file of them.

        Raises:
            FormatError: the file does not hold labels.
            InvalidArgument: neither labels by feature nor a file, or labels of features
                that the SAE does not have.
        """
        texts = labels_of(labels)
        if texts and max(texts) >= self.d_sae:
            raise InvalidArgument(
                f"labels name feature {max(texts)}, and this index has features 0 to "
                f"{self.d_sae - 1}; give the labels of its SAE"
            )
        return FeatureIndex(
            self.folder,
            self._contents,
            model=self._model,
            sae=self._sae,
            labels=texts,
            tokenizer=self._tokenizer,
        )

    @property
    def site(self) -> str:
        """The site that the SAE writes to."""
        return str(self._contents.about["site"])

    @property
    def model_name(self) -> str | None:
        """Name of the model, if it is known."""
        return self._contents.about["model_name"]

    @property
    def n_tokens(self) -> int:
        """Tokens that were encoded."""
        return int(self._contents.about["n_tokens"])

    @property
    def d_sae(self) -> int:
        """The number of features."""
        return len(self._contents.tensors["smallest_rank"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Where the index comes from: model, SAE, text, options."""
        return self._contents.about["settings"]

    def page(self, feature: int) -> FeaturePage:
        """What is known of one feature, as data that shows itself in a notebook.

        Raises:
            InvalidArgument: the SAE has no such feature.
        """
        number = arguments.integer(
            feature, "feature", at_least=0, at_most=self.d_sae - 1
        )
        return page_of(self._contents, number, self.labels)

    def pages(self, features: Sequence[int]) -> list[FeaturePage]:
        """The pages of several features; see ``page``."""
        return [
            page_of(self._contents, number, self.labels)
            for number in self._checked(features)
        ]

    def strongest(self, n: int = 100) -> list[int]:
        """The n features with the largest activations, largest first.

        Features that were never active are left out.
        """
        n = arguments.positive_int(n, "n")
        largest = self._contents.tensors["top.score"][:, 0]
        order = largest.sort(descending=True, stable=True).indices[:n]
        return [number for number in order.tolist() if largest[number] > 0]

    def table(self) -> pandas.DataFrame:
        """A row for every feature.

        ``feature``, ``label``, ``density`` (the share of tokens on which it is active),
        ``largest`` (its largest activation, 0 if it was never active), and
        ``smallest_rank`` (NaN if it was never active).
        """
        tensors = self._contents.tensors
        ranks = tensors["smallest_rank"].double()
        ranks[ranks >= self.d_sae] = float("nan")
        density = tensors["levels"].sum(1).double() / self.n_tokens
        columns = {
            "feature": range(self.d_sae),
            "label": [self.labels.get(number) for number in range(self.d_sae)],
            "density": density.numpy(),
            "largest": tensors["top.score"][:, 0].clamp(min=0).double().numpy(),
            "smallest_rank": ranks.numpy(),
        }
        return pandas.DataFrame(columns)

    def of(self, tokens: Any, *, positions: Positions = None) -> pandas.DataFrame:
        """The active features of every token of a text, strongest first.

        The columns are ``row``, ``position``, ``token``, ``feature``, ``rank``,
        ``activation`` and ``label``. Codes are cut at the k of the index.

        Args:
            tokens: a text, or any form that ``token_batch`` takes.
            positions: the tokens to encode, as in ``splice``.

        Raises:
            InvalidArgument: the index was opened without a model and an SAE.
            UnknownSite, ShapeMismatch, NonFinite: as in ``splice``.
        """
        if self._model is None or self._sae is None:
            raise InvalidArgument(
                "this needs the model and the SAE: "
                "sle.features.open(folder, model, sae)"
            )
        table = active_features(
            self._model,
            self._sae,
            tokens,
            k=self.settings["k"],
            positions=positions,
            tokenizer=self._tokenizer,
        )
        return self._with_labels(table)

    def search(
        self,
        on: Any,
        off: Any = None,
        *,
        on_positions: Positions = None,
        off_positions: Positions = None,
    ) -> pandas.DataFrame:
        """The features that are active on one text and nowhere on another.

        ::

            index.search(on="in Paris", off="in Rome")
            index.search(on=text, on_positions=[7], off=text, off_positions=slice(7))

        A row for each, with the columns of ``of`` for the token on which its activation
        is largest, and ``n_rows``, the number of rows of ``on`` in which it is active;
        the largest activation first.

        Args:
            on: tokens on at least one of which a feature must be active, in any form
                that ``token_batch`` takes.
            off: tokens on none of which it may be active; None leaves none out.
            on_positions: the tokens of ``on`` that count, as in ``splice``.
            off_positions: those of ``off``.

        Raises:
            InvalidArgument: ``off_positions`` without ``off``; or as ``of``.
            UnknownSite, ShapeMismatch, NonFinite: as ``of``.
        """
        absent = None
        if off is None and off_positions is not None:
            raise InvalidArgument(
                "off_positions chooses tokens of off, which is missing: give off= too, "
                "the same text as on if both are in one"
            )
        present = self.of(on, positions=on_positions)
        if off is not None:
            absent = self.of(off, positions=off_positions)
        return only_on(present, absent)

    def dashboard(
        self,
        folder: str | Path,
        features: Sequence[int] | None = None,
        *,
        n: int | None = None,
        title: str | None = None,
    ) -> Path:
        """Write a page for each of some features, and one to search and sort them.

        Args:
            folder: where to write ``index.html`` and ``feature-981.html``, ... in the
                place of those of an earlier dashboard.
            features: the features; by default the n strongest.
            n: how many of the strongest; by default 100.
            title: the heading of ``index.html``; by default it names the site and the
                model.

        Returns:
            The path of ``index.html``.

        Raises:
            InvalidArgument: the SAE has no such feature; none was ever active; both
                ``features`` and ``n`` are given; or the folder cannot be written to, or
                has an ``index.html`` of something else.
        """
        if features is not None and n is not None:
            raise InvalidArgument(
                f"n={n} is how many of the strongest features to show; leave it out, "
                "or features="
            )
        numbers = (
            self.strongest(100 if n is None else n)
            if features is None
            else self._checked(features)
        )
        if not numbers:
            raise InvalidArgument(
                "no feature of this index was ever active, so there is nothing to show"
            )
        if title is None:
            title = f"Features at {self.site}"
            if self.model_name is not None:
                title = f"{title} of {shown_name(self.model_name)}"
        return write_dashboard(folder, self.pages(numbers), title)

    def _checked(self, features: Any) -> list[int]:
        numbers = arguments.features(features)
        if max(numbers) >= self.d_sae:
            raise InvalidArgument(
                f"features must be from 0 to {self.d_sae - 1} in this index; got "
                f"{max(numbers)}"
            )
        return list(numbers)

    def _with_labels(self, table: pandas.DataFrame) -> pandas.DataFrame:
        labels = [self.labels.get(number) for number in table.feature.tolist()]
        return table.assign(label=pandas.Series(labels, dtype=object))

    def __repr__(self) -> str:
        """Where it is, and what it is of."""
        return (
            f"FeatureIndex({str(self.folder)!r}, {self.d_sae} features at {self.site}, "
            f"{self.n_tokens} tokens)"
        )


def _placed(model: Any, sae: SAEs, contents: Contents) -> Mapping[Any, Any]:
    """The SAE of an index by the names of its sites in a model."""
    place = only_place(host_for(model), sae)
    assert place.sae is not None
    changes = differences(contents.about["settings"]["sae"], sae_facts(place.sae))
    if changes:
        raise InvalidArgument(
            f"the index is of another SAE: {'; '.join(changes)}; open it with the SAE "
            "that it was made with"
        )
    name: Any = place.site.name
    if place.source is not None:
        name = (place.source.name, place.site.name)
    return {name: place.sae}
