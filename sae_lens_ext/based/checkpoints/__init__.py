"""Published Based and ReBased weights, as the models of this package.

=============================== ===================================================
published as                    by
=============================== ===================================================
``transformer.layers.N.mixer``  ``hazyresearch/based-*`` and
                                ``elephantmipt/*based-*`` on the hub
``backbone.layers.N.            zoology and corl-team/rebased, for the synthetic
sequence_mixer``                tasks
``model.layers.N.attn``         language models of flash-linear-attention
our own names                   ``BasedForCausalLM.save_pretrained``
=============================== ===================================================

One reader per publication would repeat itself. Instead, ``layouts`` says what parts are
called, ``configs`` reads ``config.json``, ``feature_maps`` finds out whether the
weights are of Based or ReBased, and ``assemble`` compares all of them with the model
that they make before it moves any. ``load`` puts these together.
"""

from sae_lens_ext.based.checkpoints.load import load_checkpoint

__all__ = ["load_checkpoint"]
