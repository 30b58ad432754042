"""A torch module whose activations say which token they belong to."""

from types import SimpleNamespace

import torch
from torch import nn

SITE = "embed"
OTHER_SITE = "twice"
D_MODEL = 6


class Twice(nn.Module):
    def forward(self, x):
        return torch.cat([2 * x, x[..., :2]], dim=-1)


class Toy(nn.Module):
    """At ``embed``, the first coordinate of token i is i, and no token is an outlier.

    At ``twice`` it is 2 i. Tokens 0 to 2 are special.
    """

    def __init__(self, n_tokens: int = 1000) -> None:
        super().__init__()
        self.config = SimpleNamespace(bos_token_id=2, eos_token_id=1, pad_token_id=0)
        self.embed = nn.Embedding(n_tokens, D_MODEL)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            weight = torch.randn(n_tokens, D_MODEL, generator=generator)
            weight[:, 0] = torch.arange(n_tokens)
            # All norms are about the same.
            weight[:, 1] = (n_tokens**2 - weight[:, 0] ** 2).sqrt()
            self.embed.weight.copy_(weight)
        self.twice = Twice()
        self.out = nn.Linear(D_MODEL + 2, 3)
        # All toys are equal: a stream tells a model by its weights.
        with torch.no_grad():
            for parameter in self.out.parameters():
                parameter.fill_(0.1)
        self.n_passes = 0

    def forward(self, ids):
        self.n_passes += 1
        return self.out(self.twice(self.embed(ids)))


def rows(n_rows: int = 40, length: int = 10):
    """Rows with a BOS and otherwise a token of its own at every place, from 3 on."""
    ids = torch.arange(n_rows * (length - 1)).reshape(n_rows, length - 1) + 3
    return torch.cat([torch.full((n_rows, 1), 2), ids], dim=1)


def ids_of(values) -> list[int]:
    """The tokens that activations at ``embed`` belong to."""
    return values[:, 0].round().long().tolist()


def drained(stream, n_tokens: int = 50):
    """All batches that a stream still gives."""
    batches = []
    while len(batch := stream.next_batch(n_tokens)[stream.sites[0]]):
        batches.append(batch)
    return batches


class WordTokenizer:
    """Turns "5 6" into 5, 6; it has the methods of a tokenizer of transformers."""

    bos_token_id = 2
    eos_token_id = 1

    def __call__(self, text, **_):
        return {"input_ids": [int(word) for word in text.split()]}

    def __len__(self):
        return 1000

    def get_vocab(self):
        return {str(number): number for number in range(len(self))}


def same(first, second) -> bool:
    """Whether two lists of batches are equal, bit for bit."""
    return len(first) == len(second) and all(
        torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )
