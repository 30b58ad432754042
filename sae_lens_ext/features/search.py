"""Which features are active on a text, token by token."""

from collections.abc import Mapping
from typing import Any

import pandas
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.features.entries import Entries
from sae_lens_ext.features.token_strings import token_strings
from sae_lens_ext.hosts import TokenBatch, host_for, token_rows
from sae_lens_ext.interventions import Run
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.sae import SAE, SparseCode

COLUMNS = ("row", "position", "token", "feature", "rank", "activation")


def active_features(
    model: Any,
    sae: Mapping[Any, SAE],
    tokens: Any,
    *,
    k: int | None,
    positions: Positions = None,
    tokenizer: Any = None,
) -> pandas.DataFrame:
    """A row for every feature that is active on a token, in the order of the text.

    Args:
        model: as in ``splice``.
        sae: one SAE by the name of its site.
        tokens: as in ``token_batch``.
        k: features per token; None for every active one.
        positions: the tokens to encode, as in ``splice``.
        tokenizer: what tells the text of tokens; by default the model's.

    Raises:
        InvalidArgument: no token is encoded.
    """
    host = host_for(model).plain()
    batch = token_rows(host, tokens)
    # A mask is in the columns of the batch.
    run = Run.capture(model, batch, sae, k, positions=positions)
    (code,) = run.codes.values()
    mask = run.mask(*run.codes).to(code.values.device)
    if not mask.any():
        raise InvalidArgument(
            "no token of this text is encoded: positions count the tokens of each "
            "row from 0, and by default the special tokens that the SAE was not "
            "trained on are left out"
        )

    chosen = SparseCode(code.values[mask], code.indices[mask], code.d_sae)
    entries = Entries.of(chosen, mask)
    ids = batch.ids.to(mask.device)[entries.row, entries.position].tolist()
    if tokenizer is None:
        tokenizer = host.tokenizer
    strings = token_strings(tokenizer, set(ids))
    starts = _starts(batch).to(mask.device)
    return pandas.DataFrame(
        {
            "row": _column(entries.row),
            "position": _column(entries.position - starts[entries.row]),
            "token": [strings[number] for number in ids],
            "feature": _column(entries.feature),
            "rank": _column(entries.rank),
            # A float32 that is rounded is shown with its digits beyond the decimals.
            "activation": _column(entries.value.double()),
        },
        columns=list(COLUMNS),
    )


def only_on(on: pandas.DataFrame, off: pandas.DataFrame | None) -> pandas.DataFrame:
    """The features of one table that are not in another, strongest first.

    A row for each: the place where it is strongest, and in the column ``n_rows`` the
    number of rows that it is active in.
    """
    strongest = on.sort_values("activation", ascending=False, kind="stable")
    strongest = strongest.drop_duplicates("feature")
    n_rows = on.groupby("feature")["row"].nunique()
    strongest = strongest.assign(n_rows=n_rows.loc[strongest.feature].to_numpy())
    if off is not None:
        strongest = strongest.loc[~strongest.feature.isin(off.feature), :]
    return strongest.reset_index(drop=True)


def _starts(batch: TokenBatch) -> Tensor:
    """The column of the first token of every row."""
    return batch.mask.byte().argmax(dim=1)


def _column(numbers: Tensor) -> Any:
    return numbers.detach().cpu().numpy()
