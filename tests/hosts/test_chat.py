"""Messages become tokens, each of which is known to be a role's or the template's."""

import copy

import pytest
import tiny
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import sae_lens_ext as sle

# As ChatML writes a chat.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# As Gemma does: contents are stripped, the assistant is called model, and there is no
# system.
STRIPPING = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|{{ 'model' if m.role == 'assistant' else m.role }}|>\n{{ m.content | trim }}"
    "<|end|>\n{% endfor %}"
)
FORGETTING = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"
SHOUTING = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
REPEATING = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
SYSTEM_BY_CONTENT = (
    "{% for m in messages %}{{ m.content }}{{ 'x' if 'secret' in m.content }}"
    "{% endfor %}"
)

CHAT = [
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hello you"},
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "so long"},
]


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte, so that every character can be told apart."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|model|>"],
    )
    tokenizer.chat_template = PLAIN
    return tokenizer


class _Anything(torch.nn.Module):
    """A model of which nothing is asked."""


def _batch(tokenizer, messages, template=PLAIN):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return sle.token_batch(_Anything(), messages, tokenizer=tokenizer)


def _said(tokenizer, batch, role):
    """The text of a role's tokens, row by row."""
    return [
        tokenizer.decode(ids[mask])
        for ids, mask in zip(batch.ids, batch.role(role), strict=True)
    ]


def test_ids_are_those_of_the_template(tokenizer):
    batch = _batch(tokenizer, CHAT)
    expected = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert batch.ids.tolist() == [expected]


@pytest.mark.parametrize("template", [PLAIN, STRIPPING])
def test_a_role_is_what_its_messages_say(tokenizer, template):
    batch = _batch(tokenizer, CHAT, template)
    assert _said(tokenizer, batch, "assistant") == ["hello youso long"]
    assert _said(tokenizer, batch, "user") == ["hi therehi there"]
    both = batch.role("assistant") & batch.role("user")
    assert not both.any()


def test_contents_may_be_anything(tokenizer):
    contents = [
        "  spaces around \n",
        "",
        "<|user|>\nas in the template<|end|>",
        "héllo 🤗 content0x",
        "\n\nlines",
    ]
    for template in (PLAIN, STRIPPING):
        for content in contents:
            chat = [*CHAT[:1], {"role": "assistant", "content": content}]
            (said,) = _said(tokenizer, _batch(tokenizer, chat, template), "assistant")
            assert said == (content if template == PLAIN else content.strip())


def test_chats_and_texts_of_any_lengths_are_rows(tokenizer):
    system = {"role": "system", "content": "be brief"}
    batch = _batch(tokenizer, [CHAT[:2], "a text", [system, *CHAT]])
    assert _said(tokenizer, batch, "assistant") == ["hello you", "", "hello youso long"]
    assert _said(tokenizer, batch, "system") == ["", "", "be brief"]
    assert not (batch.role("user") & ~batch.mask).any()
    right = batch.right_padded()
    assert _said(tokenizer, right, "user") == ["hi there", "", "hi therehi there"]


def test_a_token_that_is_partly_content_counts_as_content():
    """A word-level tokenizer that keeps the whole line in one token."""
    words = {"<unk>": 0, "a: hi": 1, "b: ho": 2}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    chat = [{"role": "a", "content": "hi"}, {"role": "b", "content": "ho"}]
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    batch = _batch(tokenizer, chat, template)
    assert batch.ids.tolist() == [[1, 2]]
    assert batch.role("a").tolist() == [[True, False]]
    assert batch.role("b").tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        (CHAT, None, "has no chat template"),
        (CHAT, FORGETTING, "rewrites messages"),
        (CHAT, SHOUTING, "rewrites messages"),
        (CHAT, REPEATING, "rewrites messages"),
        (
            [{"role": "user", "content": "a secret"}],
            SYSTEM_BY_CONTENT,
            "rewrites messages",
        ),
        (
            [{"role": "system", "content": "be brief"}],
            STRIPPING,
            "rejects these messages: no system role",
        ),
        ([{"role": "user"}], PLAIN, "message 0 is {'role': 'user'}"),
        ([*CHAT, {"role": "user", "content": ["a"]}], PLAIN, "message 4 is"),
        ([{"role": 3, "content": "a"}], PLAIN, "messages must be"),
    ],
)
def test_rejects_messages_that_cannot_be_traced(tokenizer, messages, template, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        _batch(tokenizer, messages, template)


def test_rejects_a_tokenizer_that_does_not_know_places(tokenizer, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(sle.InvalidArgument, match="slow tokenizer"):
        _batch(tokenizer, CHAT)


def test_a_model_without_a_tokenizer_cannot_write_messages():
    with pytest.raises(sle.InvalidArgument, match="no tokenizer; give token ids"):
        sle.token_batch(_Anything(), CHAT)


@pytest.mark.parametrize("host", ["lens", "transformers_model"])
def test_hosts_with_a_tokenizer_take_messages_wherever_tokens_go(host, monkeypatch):
    monkeypatch.setattr(
        tiny.tokenizer(),
        "chat_template",
        "{{ bos_token }}{% for m in messages %} w9 {{ m.content }}{% endfor %}",
        raising=False,
    )
    model = tiny.hosted(host)
    chats = [
        [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}],
        [{"role": "user", "content": "w4"}],
    ]
    batch = sle.token_batch(model, chats)
    assert batch.right_padded().ids.tolist() == [
        [2, 13, 5, 6, 13, 7],
        [2, 13, 8, 0, 0, 0],
    ]
    assert batch.role("assistant").sum(1).tolist() == [1, 0]
    options = {"ks": [2], "positions": batch.role("user"), "progress": False}
    frame = sle.sweep_k(model, chats, tiny.sae(), **options)
    assert frame.attrs["n_spliced"] == 3
