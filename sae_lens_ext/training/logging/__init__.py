"""Where the metrics of a run go."""

from sae_lens_ext.training.logging.base import LoggedRun, Logger, Metrics
from sae_lens_ext.training.logging.metrics_file import MetricsFile
from sae_lens_ext.training.logging.open import open_loggers

__all__ = ["LoggedRun", "Logger", "Metrics", "MetricsFile", "open_loggers"]
