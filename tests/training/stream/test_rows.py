"""Rows of tokens in every form go on at the next one."""

import json

import pytest
import torch
from toy import SITE, Toy, WordTokenizer, rows

import sae_lens_ext as sle
from sae_lens_ext.hosts import token_batch
from sae_lens_ext.text import TextRows
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.rows import RowSource, row_source

WORDS = [" ".join(map(str, row[1:])) for row in rows(12, 4).tolist()]
LAST_ROWS = token_batch(Toy(), rows(12, 4)[7:])
FORMS = {
    "text": lambda: TextRows(WORDS, WordTokenizer(), context=4),
    "tensor": lambda: rows(12, 4),
    "lists": lambda: rows(12, 4).tolist(),
    "mapping": lambda: {"input_ids": rows(12, 4)},
    "token batches": lambda: [token_batch(Toy(), rows(12, 4)[:7]), LAST_ROWS],
    "batches": lambda: lambda: iter(rows(12, 4).split(5)),
}


def source_of(form, seed=None):
    return row_source(FORMS[form](), Collector(Toy(), SITE), seed)


def all_of(source, n=2):
    parts = []
    while (part := source.next_rows(n)) is not None:
        parts += (part if isinstance(part, torch.Tensor) else part.ids).tolist()
    return parts


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("form", FORMS)
def test_goes_on_at_the_next_row(form, seed):
    source = source_of(form, seed)
    assert isinstance(source, RowSource)
    source.start(0)
    whole = all_of(source_of(form, seed))
    assert sorted(whole) == rows(12, 4).tolist()

    while True:
        state = json.loads(json.dumps(source.state()))
        fresh = source_of(form, seed)
        fresh.restore(state)
        rest = all_of(fresh)
        assert rest == (whole[-len(rest) :] if rest else [])
        if source.next_rows(2) is None:
            break
    assert rest == []


def test_rows_in_memory_have_an_order_in_every_pass():
    source = source_of("tensor", seed=0)
    orders = []
    for epoch in range(3):
        source.start(epoch)
        orders.append(all_of(source))
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(order) == rows(12, 4).tolist() for order in orders)
    assert all_of(source_of("tensor")) == rows(12, 4).tolist()


def test_the_number_of_tokens_is_known_for_rows_in_memory():
    assert source_of("tensor").tokens_per_epoch == 36
    assert source_of("batches").tokens_per_epoch is None


def test_facts_tell_other_tokens_apart():
    collector = Collector(Toy(), SITE)
    facts = row_source(rows(12, 4), collector, None).facts
    assert row_source(rows(12, 4), collector, None).facts == facts
    assert row_source(rows(12, 4) + 1, collector, None).facts != facts


@pytest.mark.parametrize("tokens", [None, 3.5, ["text"]])
def test_rejects_objects_that_are_not_tokens(tokens):
    with pytest.raises(sle.InvalidArgument):
        row_source(tokens, Collector(Toy(), SITE), None)
