"""An SAE of which every process has a slice of the dictionary, for a share of a batch.

To encode its tokens, a process

1. gives them to all others, and gets theirs;
2. encodes all tokens with its own slice, and offers the first k features of each;
3. keeps the first k of what all offer: the code of the whole dictionary;
4. gets the decoder rows that the codes of its own tokens need, each once.

So every objective that encodes and then decodes works on the tokens of a process as on
a batch of its own. The backward pass returns the gradients of the rows, and those of
the values, to where they belong.

With n tokens in all, of which a process has its part, the rows are ``min(k * n / ranks,
d_sae)`` at most. They and their gradients are what is exchanged and what takes memory;
no reconstruction of a prefix is.
"""

import itertools
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.sae import SAE, SparseCode
from sae_lens_ext.training.parallel.group import Group
from sae_lens_ext.training.parallel.merging import Merged, merged

# A place without a candidate: behind every activation, which is at least 0.
_NO_CANDIDATE = -1.0


class Slice(NamedTuple):
    """The weights of the features that a process has."""

    W_enc: Float[Tensor, "d_model slice"]
    b_enc: Float[Tensor, " slice"]
    W_dec: Float[Tensor, "slice d_out"]


class GatheredSAE(SAE):
    """What a process sees of the whole SAE: codes, and the decoder rows they need.

    Attributes:
        W_dec: the decoder rows of the last code, whose indices are its rows.
        wanted: the features of these rows.
    """

    def __init__(self, sae: SAE, group: Group, starts: list[int]) -> None:
        """Take the weights that this process has.

        Args:
            sae: its weights are DTensors.
            group: the processes.
            starts: the first feature of every process.
        """
        from torch.distributed.tensor import Partial

        # Not SAE's: its parameters are whole.
        nn.Module.__init__(self)
        tensors: Any = sae
        self.config = sae.config
        self._group = group
        self._start = starts[group.rank]
        self._ends = torch.tensor(starts[1:], device=group.device)
        self._slice = Slice(
            tensors.W_enc.to_local(),
            tensors.b_enc.to_local(),
            tensors.W_dec.to_local(),
        )
        # What every process has; their gradients are parts of a sum. Modules take what
        # comes from a parameter for one.
        for name, tensor in (("b_dec", tensors.b_dec), ("W_skip", tensors.W_skip)):
            part = tensor
            if tensor is not None:
                part = tensor.to_local(grad_placements=[Partial()])
            object.__setattr__(self, name, part)
        self.threshold = None
        self.wanted: Tensor = self._ends[:0]

    def encode_normalized(
        self, u: Float[Tensor, "*batch d_model"], k: int | None
    ) -> SparseCode:
        """The code of this process's tokens; collective, at one k."""
        assert k is not None, "objectives of kind topk have a k"
        n_tokens = [n for (n,) in self._group.counts([len(u)])]
        first = sum(n_tokens[: self._group.rank])
        own = slice(first, first + len(u))

        values, columns = self._offered(self._group.gather_rows(u, n_tokens), k)
        code = self._merged(values.detach(), columns, k)
        features = code.features[own]
        # Zeros need no row. Without any other, one row stands for all.
        is_needed = code.values[own] != 0
        self.wanted = torch.unique(features[is_needed])
        if not len(self.wanted):
            self.wanted = features.new_zeros(1)

        exchange = Exchange(self._group, code, n_tokens, own)
        exchange.request(self.wanted, self._ends, self._start)
        # Its type says one tensor; it returns as many as forward does.
        exchanged: Any = _Exchanged.apply(values, self._slice.W_dec, exchange)
        of_own_tokens, rows = exchanged
        object.__setattr__(self, "W_dec", rows)
        places = torch.searchsorted(self.wanted, features)
        indices = torch.where(is_needed, places, 0)
        return SparseCode(of_own_tokens, indices, len(self.wanted))

    def global_code(self, code: SparseCode) -> SparseCode:
        """A code with the numbers that features have in the whole dictionary."""
        return SparseCode(code.values, self.wanted[code.indices], self.config.d_sae)

    def _offered(self, u: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The first features of this process's slice for all tokens."""
        centre = self.b_dec if self.config.apply_b_dec_to_input else None
        W_enc, b_enc, _ = self._slice
        n = min(k, len(b_enc))
        return topk_encode(u, W_enc, b_enc, n, centre=centre, screen=True)

    def _merged(self, values: Tensor, columns: Tensor, k: int) -> Merged:
        """The code of all tokens in the whole dictionary."""
        # The first slices are the longest.
        widest = min(k, -(-self.config.d_sae // self._group.size))
        n_missing = widest - values.shape[1]
        offered = nn.functional.pad(values, (0, n_missing), value=_NO_CANDIDATE)
        features = nn.functional.pad(columns + self._start, (0, n_missing))
        # Half the bytes; no dictionary has 2 ** 31 features.
        features = self._group.gather(features.int())
        return merged(self._group.gather(offered), features.long(), k)


class Exchange:
    """Who needs which decoder rows of whom, and which values belong to whom."""

    def __init__(
        self, group: Group, code: Merged, n_tokens: list[int], own: slice
    ) -> None:
        """Nothing is exchanged yet.

        Args:
            group: the processes.
            code: of all tokens.
            n_tokens: how many of them every process has.
            own: those of this one.
        """
        self.group = group
        self.code = code
        self.n_tokens = n_tokens
        self.own = own
        self.n_received: list[int] = []
        self.n_sent: list[int] = []
        self.sent: Tensor = code.features[:0, 0]

    def request(
        self, wanted: Int[Tensor, " rows"], ends: Int[Tensor, " ends"], start: int
    ) -> None:
        """Ask for decoder rows, and learn which ones the others ask for.

        Args:
            wanted: rising numbers of features.
            ends: the ends of all slices but the last.
            start: the first feature of this process.
        """
        # Rising, so those of one process are next to each other.
        inner = torch.searchsorted(wanted, ends).tolist()
        bounds = [0, *inner, len(wanted)]
        self.n_received = [end - begin for begin, end in itertools.pairwise(bounds)]
        counts = self.group.counts(self.n_received)
        self.n_sent = [numbers[self.group.rank] for numbers in counts]
        asked = self.group.send_rows(wanted, self.n_received, self.n_sent)
        self.sent = asked - start


class _Exchanged(torch.autograd.Function):
    """Values of this process's tokens and the decoder rows they need."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rows: Tensor, exchange: Exchange
    ) -> tuple[Tensor, Tensor]:
        ctx.exchange = exchange
        ctx.shapes = (values.shape, rows.shape)
        received = exchange.group.send_rows(
            rows[exchange.sent], exchange.n_sent, exchange.n_received
        )
        return exchange.code.values[exchange.own].clone(), received

    @staticmethod
    def backward(
        ctx: Any, grad_values: Tensor, grad_received: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        exchange: Exchange = ctx.exchange
        group = exchange.group
        values_shape, rows_shape = ctx.shapes

        grad_sent = group.send_rows(grad_received, exchange.n_received, exchange.n_sent)
        grad_rows = grad_sent.new_zeros(rows_shape)
        grad_rows.index_add_(0, exchange.sent, grad_sent)

        # Each process takes the gradients of the values that it offered.
        of_all = group.gather_rows(grad_values, exchange.n_tokens)
        is_own = exchange.code.ranks == group.rank
        columns = torch.where(is_own, exchange.code.columns, 0)
        grad_offered = of_all.new_zeros(values_shape)
        grad_offered.scatter_add_(1, columns, torch.where(is_own, of_all, 0))
        return grad_offered, grad_rows, None
