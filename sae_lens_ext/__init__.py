"""One sparse autoencoder, every k: train it, splice it into a language model, turn k while it runs."""

__version__ = "0.1.0.dev0"
