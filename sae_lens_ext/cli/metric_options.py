"""The options of ``sae-lens-ext train`` that choose a metric of the errors."""

from dataclasses import dataclass, replace
from pathlib import Path

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.cli.inputs import LanguageModel, TextOptions
from sae_lens_ext.cli.parsing import check_unused, default_of
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.training import ErrorMetric, fisher_metric


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """What errors of the reconstruction count by."""

    metric: str | None = None
    """fisher counts them by what they do to the model's predictions; None counts their
    squares."""
    metric_share: float = default_of(fisher_metric, "share")
    """Share of the Fisher information in the metric, above 0 and below 1; the rest is
    the plain squared error."""
    metric_tokens: int = 16_384
    """Tokens from the beginning of the text that the Fisher information is estimated
    from; ten times the width of the activations are enough."""

    def check(self) -> None:
        """Check the options.

        Raises:
            InvalidArgument: one or more are invalid.
        """
        with FieldChecks(replace(self)) as check:
            check(arguments.choice, "metric", choices=("fisher",), optional=True)
            check(arguments.finite, "metric_share", above=0, below=1)
            check(arguments.positive_int, "metric_tokens")
        if self.metric is None:
            check_unused(self, ("metric_share", "metric_tokens"), "metric")

    def chosen(
        self,
        language_model: LanguageModel,
        text: TextOptions,
        site: str,
        saved: Path,
        *,
        progress: bool,
    ) -> ErrorMetric | None:
        """The metric: that of the run that goes on, or a new one.

        Args:
            language_model: the model.
            text: the text that is trained on.
            site: of what is reconstructed.
            saved: the file in which a run keeps its metric.
            progress: whether to show a progress bar.

        Raises:
            InvalidArgument: the run that goes on has been begun with other options.
            FormatError: its file is damaged.
        """
        if self.metric is None:
            return None
        about = (
            f"Fisher information with a share of {self.metric_share:g}, from the "
            f"first {self.metric_tokens} tokens of the text"
        )
        if saved.exists():
            metric = ErrorMetric.load(saved)
            if metric.about != about:
                raise InvalidArgument(
                    f"metric of the run in {saved.parent} is {metric.about!r}, and "
                    f"these options ask for {about!r}; give another folder, or the "
                    "options of that run to go on with it"
                )
            return metric

        rows = text.rows(language_model.tokenizer, held_out=False)
        tokens = rows.next_rows(max(1, self.metric_tokens // text.context))
        metric = fisher_metric(
            language_model.model,
            tokens,
            site,
            share=self.metric_share,
            progress=progress,
        )
        return replace(metric, about=about)
