"""A metric of the runs of a model."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.circuits.metrics import TokenMetric
from sae_lens_ext.circuits.prompts import Prompts
from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.hosts import Host, TokenBatch, long_rows, next_token_logits

Metric = TokenMetric | Callable[[Float[Tensor, "batch pos d_vocab"]], Any]
"""A metric of this package, or a function of the logits, in the columns of the batch,
that returns one number or one per row.
"""


class Measurement:
    """A metric, and the logits that it needs, of the rows of some prompts."""

    def __init__(self, host: Host, metric: Metric, prompts: Prompts) -> None:
        """Bind a metric to a model and the rows that it runs.

        Raises:
            InvalidArgument: not a metric, or one that does not fit the model or the
                rows.
            ShapeMismatch: a metric with values for another number of rows.
        """
        if not callable(metric) and not isinstance(metric, TokenMetric):
            raise InvalidArgument(
                "metric must be a metric such as circuits.logit_difference(yes, no), "
                "or a function of the logits [batch, pos, d_vocab]; got an object of "
                f"type {type(metric).__name__}"
            )
        self.n_rows = len(prompts.clean)
        self._host = host
        self._prompts = prompts
        self.metric = metric

        # Columns of the logits to compute; None means all.
        self._columns: Int[Tensor, " scored"] | None = None
        if isinstance(metric, TokenMetric):
            positions = _positions(prompts.clean, metric.position)
            # Rows of different lengths end at different positions.
            self._columns, self._column_of = positions.unique(return_inverse=True)
            self._score = metric.bound(host, self.n_rows, self._reference)

    def logits(self, tokens: TokenBatch) -> Float[Tensor, "rows scored d_vocab"]:
        """Run the model on rows padded on the right; the logits that the metric reads.

        The rows are those of the prompts, or some of them in any order.
        """
        with long_rows(self._host, tokens):
            if self._columns is None:
                return self._host.logits(tokens)
            if self._host.unembed is None:
                logits = self._host.logits(tokens)
                return logits[:, self._columns.to(logits.device)]
            return next_token_logits(self._host, tokens, self._columns)

    def values(
        self, logits: Float[Tensor, "batch scored d_vocab"]
    ) -> Float[Tensor, "*rows"]:
        """The metric of all rows: one number, or one per row.

        Raises:
            InvalidArgument: the metric returns no tensor of floating-point numbers.
            ShapeMismatch: it returns another number of them.
            NonFinite: it returns NaN or infinity.
        """
        if isinstance(self.metric, TokenMetric):
            values = self._score(self._selected(logits))
        else:
            batch = self._prompts.batch
            if not batch.is_right_padded:
                logits = batch.in_columns(logits)
            values = self.metric(logits)
        return self._checked(values)

    def differentiable(
        self, logits: Float[Tensor, "batch scored d_vocab"]
    ) -> Float[Tensor, "*rows"]:
        """The metric of all rows, with a gradient by logits that take one.

        Raises:
            InvalidArgument: as ``values``, or there is no gradient.
            ShapeMismatch, NonFinite: as ``values``.
        """
        values = self.values(logits)
        if not values.requires_grad:
            raise InvalidArgument(
                "the metric has no gradient by the logits: compute it from them by "
                "differentiable operations (.item(), argmax and detach() end a "
                "gradient)"
            )
        return values

    def _selected(self, logits: Tensor) -> Float[Tensor, "batch d_vocab"]:
        """The logits at the one position of every row."""
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, self._column_of.to(logits.device)]

    def _reference(self, name: str) -> Float[Tensor, "batch d_vocab"]:
        """Logits of the clean or the corrupted run, at the position of every row."""
        tokens = self._prompts.clean
        if name == "corrupted":
            if self._prompts.corrupted is None:
                raise InvalidArgument(
                    "the metric compares with the corrupted run, and there is none; "
                    "pass corrupted="
                )
            tokens = self._prompts.corrupted
        with torch.no_grad():
            return self._selected(self.logits(tokens))

    def _checked(self, values: Any) -> Tensor:
        is_tensor = isinstance(values, Tensor) and values.is_floating_point()
        if not is_tensor:
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise InvalidArgument(
                "metric must return a floating-point tensor, one number or one per "
                f"row, computed from the logits; it returned {kind}"
            )
        if values.shape not in ((), (self.n_rows,)):
            raise ShapeMismatch(
                f"metric must return one number or one per row, [{self.n_rows}]; it "
                f"returned {list(values.shape)}: reduce it over positions and tokens"
            )
        if not bool(torch.isfinite(values).all()):
            raise NonFinite(
                f"metric is {values.tolist()}: effects on NaN or infinity are not "
                "numbers; check the metric, and the weights and dtype of the model"
            )
        return values


def _positions(tokens: TokenBatch, position: int) -> Int[Tensor, " batch"]:
    """The column of one position of every row's text, in rows padded on the right."""
    lengths = tokens.lengths
    columns = torch.full_like(lengths, position)
    if position < 0:
        columns = lengths + position
    outside = ((columns < 0) | (columns >= lengths)).nonzero().flatten().tolist()
    if outside:
        row = outside[0]
        raise InvalidArgument(
            f"position={position} of the metric is not in row {row}, which has "
            f"{int(lengths[row])} tokens"
        )
    return columns
