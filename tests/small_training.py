"""Trainings that take a moment: a stream in memory, settings, and their files."""

import json

import torch

import sae_lens_ext as sle
from sae_lens_ext.training import ErrorMetric, RunConfig, TrainConfig
from sae_lens_ext.training.stream import SiteStatistics, StreamState

SITE = "blocks.0.hook_resid_post"
SITE_OUT = "blocks.0.hook_mlp_out"
N_TOKENS = 640
WIDTH = 12

CONFIG = TrainConfig(d_sae=32, k=4, batch_size=32, lr=3e-3)
"""20 steps."""
RUN = RunConfig(checkpoint_every=3, log_every=2, eval_every=4, keep_last=2)


def values(n_tokens=N_TOKENS, width=WIDTH, seed=0):
    """Activations with a large mean in one coordinate."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(n_tokens, width, generator=generator)
    table[:, 1] += 30
    return table


def transcoder_values():
    """Activations at two sites, the second a function of the first."""
    x = values()
    y = torch.tanh(x[:, :10] - x.mean(0)[:10]) * 3 + 7
    return {SITE: x, SITE_OUT: y}


def metric(site=SITE, width=WIDTH, seed=0):
    """A metric of errors whose directions differ by a factor of about 30."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(width, width, generator=generator, dtype=torch.float64)
    identity = torch.eye(width, dtype=torch.float64)
    mean = 5 * torch.randn(width, generator=generator, dtype=torch.float64)
    return ErrorMetric(root @ root.T / width + 0.1 * identity, mean, site)


class MemoryStream:
    """A stream of tensors, shuffled in a buffer that its state has to hold."""

    def __init__(self, tensors=None, *, n_tokens=None, ends_after=None, stops_at=None):
        self.tensors = {SITE: values()} if tensors is None else tensors
        self.sites = tuple(self.tensors)
        self.model_name = "tiny"
        self.excludes_special_tokens = True
        self.length = len(self.tensors[self.sites[0]])
        self.n_tokens = n_tokens
        self.ends_after = self.length if ends_after is None else ends_after
        self.stops_at = stops_at
        self.generator = torch.Generator().manual_seed(7)
        self.buffer = torch.arange(100)
        self.next_row = 100
        self.given = 0

    @property
    def counts(self):
        return {"given": self.given, "special": 3, "outliers": 0}

    def width(self, site):
        return self.tensors[site].shape[1]

    def statistics(self):
        return {
            site: SiteStatistics(
                table.mean(0),
                (table - table.mean(0)).square().mean().rsqrt(),
                torch.tensor(torch.inf),
            )
            for site, table in self.tensors.items()
        }

    def first_tokens(self, site):
        return self.tensors[site]

    def next_batch(self, n_tokens):
        if self.given == self.stops_at:
            raise KeyboardInterrupt
        n_tokens = min(n_tokens, self.ends_after - self.given)
        order = torch.randperm(len(self.buffer), generator=self.generator)
        rows = self.buffer[order[:n_tokens]]
        fresh = torch.arange(self.next_row, min(self.next_row + n_tokens, self.length))
        self.buffer = torch.cat([self.buffer[order[n_tokens:]], fresh])
        self.next_row += len(fresh)
        self.given += len(rows)
        return {site: table[rows] for site, table in self.tensors.items()}

    def state(self):
        facts = {"next_row": self.next_row, "given": self.given}
        tensors = {"buffer": self.buffer, "generator": self.generator.get_state()}
        return StreamState(facts, tensors)

    def restore(self, state):
        self.next_row = state.facts["next_row"]
        self.given = state.facts["given"]
        self.buffer = state.tensors["buffer"].clone()
        self.generator.set_state(state.tensors["generator"])


def run(folder=None, config=CONFIG, *, stream=None, **options):
    """Train with everything that is small."""
    stream = MemoryStream(n_tokens=N_TOKENS) if stream is None else stream
    options = {"run": RUN, "progress": False, **options}
    return sle.train(stream, config, folder, **options)


def stopped(tokens, **options):
    """A stream that ends as by Ctrl-C after so many tokens."""
    return MemoryStream(n_tokens=N_TOKENS, stops_at=tokens, **options)


def same_weights(first, second):
    """Whether two SAEs have the same bits."""
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(
        name == other_name and torch.equal(tensor, other)
        for (name, tensor), (other_name, other) in pairs
    )


def metrics(folder):
    """The lines of metrics.jsonl, without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["tokens_per_second"]
    return records
