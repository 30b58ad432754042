"""Mixers, the modules of a block that move information between tokens.

They are short convolutions, linear attention, and softmax attention over a window or
over all tokens. Every mixer maps the normalised residual stream [batch, pos, d_model]
and its layer's cache, which it updates, to what it adds to the stream.

Taps (``hook_...``) are named as TransformerLens names such places, and a comment beside
each gives its shape. The activations behind some of them are computed only if they are
hooked, or always with ``shows_taps``.
"""
