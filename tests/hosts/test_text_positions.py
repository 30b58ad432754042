"""Columns of a run become positions of texts, whatever tells of them."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import CallFacts, text_positions
from sae_lens_ext.hosts.caches import Seen
from sae_lens_ext.hosts.text_positions import check_padding


def _positions(length, batch=1, seen=None, **facts):
    facts = {
        name: torch.tensor(value) if isinstance(value, list) else value
        for name, value in facts.items()
    }
    if "attention_mask" in facts:
        facts["attention_mask"] = facts["attention_mask"].bool()
    text = text_positions(CallFacts(**facts), batch, length, seen)
    return text.positions.tolist(), text.lengths.tolist(), text.start


def test_without_facts_columns_are_positions():
    assert _positions(3) == ([[0, 1, 2]], [[3, 3, 3]], 0)


def test_a_cache_comes_before():
    facts = {"cache": object(), "cached": 4}
    assert _positions(2, **facts) == ([[4, 5]], [[6, 6]], 4)


@pytest.mark.parametrize(
    ("mask", "positions", "lengths"),
    [
        ([[0, 0, 1, 1]], [-1, -1, 0, 1], [0, 0, 2, 2]),
        ([[1, 1, 1, 0]], [0, 1, 2, -1], [3, 3, 3, 0]),
        ([[1, 1, 1, 1]], [0, 1, 2, 3], [4, 4, 4, 4]),
    ],
)
def test_padding_has_no_position(mask, positions, lengths):
    expected = ([positions], [lengths], 0)
    assert _positions(4, attention_mask=mask) == expected
    # Ids that count up by one say no more, wherever they begin.
    for ids in ([[7, 8, 9, 10]], [[1, 1, 0, 1]], [[0, 1, 2, 3]]):
        if mask[0][0] or ids[0][0] != 0:
            continue
        assert _positions(4, attention_mask=mask, position_ids=ids) == expected


def test_the_mask_covers_what_is_in_the_cache():
    mask = [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    expected = ([[2], [4]], [[3], [5]], 4)
    for facts in ({"cached": 4}, {"cached": None}, {"cached": 0}):
        facts["cache"] = object()
        assert _positions(1, 2, attention_mask=mask, **facts) == expected


def test_the_mask_of_a_static_cache_may_be_as_wide_as_the_cache():
    mask = [[0, 1, 1, 0, 0, 0]]
    facts = {"cache": object(), "cached": 2}
    positions = _positions(1, attention_mask=mask, **facts)
    assert positions == ([[1]], [[2]], 2)


def test_a_mask_over_pairs_shows_padding_by_what_attends_to_itself():
    is_text = torch.tensor([[False, True, True], [True, True, True]])
    causal = torch.ones(3, 5).tril().bool()
    pairs = (causal & torch.nn.functional.pad(is_text, (0, 2))[:, None])[:, None]
    positions, lengths, _ = _positions(3, 2, attended=pairs)
    assert positions == [[-1, 0, 1], [0, 1, 2]]
    assert lengths == [[0, 2, 2], [3, 3, 3]]


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [
        ([[0, 1, 2, 0, 1]], [[3, 3, 3, 2, 2]]),
        # One token each of three requests that are served together.
        ([[17, 5, 9, 10, 2]], [[18, 6, 11, 11, 3]]),
    ],
)
def test_ids_that_restart_are_believed(ids, lengths):
    assert _positions(5, position_ids=ids) == (ids, lengths, 0)


def test_packed_rows_may_be_padded():
    positions, lengths, _ = _positions(
        5, attention_mask=[[1, 1, 1, 1, 0]], position_ids=[[0, 1, 0, 1, 2]]
    )
    assert positions == [[0, 1, 0, 1, -1]]
    assert lengths == [[2, 2, 2, 2, 0]]


def test_ids_are_believed_where_a_cache_does_not_say_how_long_it_is():
    facts = {"cache": object(), "cached": None}
    assert _positions(1, position_ids=[[17]], **facts)[0] == [[17]]
    # The first token of a text is at 0, whatever a model adds to its positions.
    assert _positions(2, position_ids=[[1, 2]])[0] == [[0, 1]]


def test_positions_go_on_after_what_earlier_runs_put_into_a_cache():
    facts = {"cache": object(), "cached": None}
    seen = Seen(4, torch.tensor([2, 4]))
    assert _positions(2, 2, seen, **facts)[0] == [[2, 3], [4, 5]]
    # Cut since by one column, as after a rejected draft.
    facts["cached"] = 3
    positions, _, start = _positions(1, 2, seen, position_ids=[[1], [3]], **facts)
    assert positions == [[1], [3]]
    assert start == 3


def test_an_activation_with_another_axis_has_positions_of_its_own():
    facts = {"attention_mask": [[0, 1, 1]], "shape": (1, 3)}
    assert _positions(7, **facts)[0] == [list(range(7))]
    # A mask of another batch does not apply.
    assert _positions(3, 4, attention_mask=[[0, 1, 1]] * 2)[0] == [[0, 1, 2]] * 4


def test_rejects_padding_inside_of_a_text():
    check_padding(CallFacts(attention_mask=torch.tensor([[False, True, True]])))
    mask = torch.tensor([[True] * 4, [True, True, False, True]])
    with pytest.raises(sle.InvalidArgument, match="row 1 .*pad prompts on the left"):
        check_padding(CallFacts(attention_mask=mask))
