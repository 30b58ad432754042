"""Based and ReBased: language models with linear attention that can be looked into.

>>> from sae_lens_ext.based import BasedConfig, BasedForCausalLM
>>> config = BasedConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, feature_dim=4)
>>> sum(parameter.numel() for parameter in BasedForCausalLM(config).parameters())
23584

Importing this registers them with the Auto classes of ``transformers``.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sae_lens_ext.based.cache import BasedCache
from sae_lens_ext.based.config import KERNELS, BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM, BasedModel

AutoConfig.register(BasedConfig.model_type, BasedConfig, exist_ok=True)
AutoModel.register(BasedConfig, BasedModel, exist_ok=True)
AutoModelForCausalLM.register(BasedConfig, BasedForCausalLM, exist_ok=True)

__all__ = ["KERNELS", "BasedCache", "BasedConfig", "BasedForCausalLM", "BasedModel"]
