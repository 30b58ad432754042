"""The code of docs/hosts.md runs, on a random Gemma-2 in place of the real one."""

import copy

import pytest
import tiny
import transformers
from documents import python_blocks, run_blocks, text_of

SITE = "blocks.12.hook_resid_post"


@pytest.fixture
def tiny_hub(monkeypatch, tmp_path):
    """Every loader returns a random model of Gemma-2's class, of 14 small blocks."""
    from nnsight.modeling import transformers as nnsight_transformers
    from transformer_lens.model_bridge import TransformerBridge

    boot = TransformerBridge.boot_transformers
    wrap = nnsight_transformers.TransformersModel

    def load_model(name):
        return copy.deepcopy(tiny.deep_gemma2())

    def load_tokenizer(name):
        return tiny.tokenizer()

    def boot_transformers(name):
        return boot("tiny", hf_model=load_model(name), tokenizer=tiny.tokenizer())

    def transformers_model(name, task):
        return wrap(load_model(name), tokenizer=tiny.tokenizer(), task=task)

    replacements = [
        (TransformerBridge, "boot_transformers", staticmethod(boot_transformers)),
        (transformers.AutoModelForCausalLM, "from_pretrained", load_model),
        (transformers.AutoTokenizer, "from_pretrained", load_tokenizer),
        (nnsight_transformers, "TransformersModel", transformers_model),
    ]
    for owner, name, loader in replacements:
        monkeypatch.setattr(owner, name, loader)

    template = "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}"
    monkeypatch.setattr(tiny.tokenizer(), "chat_template", template)
    tiny.sae(d_sae=128, k=32, hook_name=SITE).save_pretrained(tmp_path / "my_sae")
    monkeypatch.chdir(tmp_path)


def test_the_code_splices_on_every_host(tiny_hub, tmp_path):
    lens, *others = python_blocks(text_of("hosts.md"))
    names = run_blocks(tmp_path, [lens, "model_on_lens = model", *others])

    text = "The Eiffel Tower is in the city of"
    tokens = tiny.tokenizer()(text, return_tensors="pt").input_ids
    assert names["logits"].shape == (1, tokens.shape[1], len(tiny.WORDS))
    assert names["text"].shape[1] == 6 + 5
    assert names["cache"][f"{SITE}.hook_sae_acts_post"].shape[-1] == 128
    assert names["spliced"].k == 6
    assert names["batch"].lengths.tolist() == [6, 2]
    assert names["frame"].attrs["n_spliced"] == 1
