"""The n best entries of every feature, while entries of a text come in.

Nothing here loops over features: entries are sorted into groups, and the features that
have a better entry than before are merged in one step.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.errors import FormatError


class BestEntries:
    """For every feature its n entries with the highest scores.

    Of equal scores the one that came first is better, so the result does not depend on
    where a text is cut into batches.

    What else is kept of an entry is written once, to a slot of its feature, and stays
    there until a better entry takes the slot: it may be large, and most of a feature's
    entries are the same after a batch as before.
    """

    def __init__(
        self,
        d_sae: int,
        n: int,
        score: torch.dtype,
        fields: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        device: torch.device,
    ) -> None:
        """No entries yet.

        Args:
            d_sae: number of features.
            n: entries of each.
            score: dtype of scores.
            fields: what is kept of an entry besides: dtype and shape, by name.
            device: of the entries.
        """
        self._n = n
        self._lowest = lowest_score(score)
        # By feature, from the best entry down: its score, and its slot.
        self._scores = torch.full((d_sae, n), self._lowest, dtype=score, device=device)
        self._slots = torch.arange(n, device=device).repeat(d_sae, 1)
        self._stored = {
            name: torch.zeros(d_sae, n, *shape, dtype=dtype, device=device)
            for name, (dtype, shape) in fields.items()
        }

    def fields(self) -> dict[str, Tensor]:
        """Everything by name, ``[d_sae, n, ...]``, from the best entry down.

        ``"score"`` is one of the names. Places without an entry have the lowest score
        of its dtype, and zeros.
        """
        lines = torch.arange(len(self._slots), device=self._slots.device).unsqueeze(1)
        ordered = {
            name: values[lines, self._slots] for name, values in self._stored.items()
        }
        return {"score": self._scores, **ordered}

    def exceeded(
        self,
        feature: Int[Tensor, " entry"],
        score: Tensor,
    ) -> Tensor:
        """Which entries are better than the last of their feature, ``[entry]``."""
        return score > self._scores[feature, -1]

    def offer(
        self,
        feature: Int[Tensor, " entry"],
        score: Tensor,
        describe: Callable[[Tensor], Mapping[str, Tensor]],
    ) -> None:
        """Take the entries that are among the best of their feature.

        Args:
            feature: of each entry.
            score: of each entry.
            describe: the other fields of some of the entries, by their numbers.
        """
        n = self._n
        entry = self.exceeded(feature, score).nonzero().flatten()
        if not len(entry):
            return
        entry = entry[best_of_each(feature[entry], score[entry], n)]

        # The features that change, with places for n new entries behind their own.
        changed, line = feature[entry].unique(return_inverse=True)
        place = place_in_group(line)
        before = self._scores[changed]
        offered = torch.full_like(before, self._lowest)
        offered[line, place] = score[entry]
        numbers = torch.zeros_like(before, dtype=torch.int64)
        numbers[line, place] = entry

        # The old ones come first, so that they win where scores are equal; so a place
        # without a new entry is never among the best.
        scores = torch.cat([before, offered], dim=1)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        best = order[:, :n]
        rest = order[:, n:]

        # In every line as many old entries leave as new ones come.
        is_new = best >= n
        is_left = rest < n
        slots = self._slots[changed]
        freed = slots.gather(1, rest.clamp(max=n - 1))[is_left]
        slots = slots.gather(1, best.clamp(max=n - 1))
        slots[is_new] = freed
        self._scores[changed] = scores.gather(1, best)
        self._slots[changed] = slots

        taken = numbers.gather(1, (best - n).clamp(min=0))[is_new]
        for name, values in describe(taken).items():
            stored = self._stored[name]
            stored[feature[taken], freed] = values.to(stored.dtype)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the fields of another one that was made alike.

        Raises:
            FormatError: other fields or shapes.
        """
        copy_checked(self._scores, tensors.get("score"), "score")
        for name, values in self._stored.items():
            copy_checked(values, tensors.get(name), name)
        self._slots.copy_(torch.arange(self._n, device=self._slots.device))


def copy_checked(
    target: Tensor,
    source: Tensor | None,
    name: str,
) -> None:
    """Copy numbers from a file into a tensor of the same shape and dtype.

    Raises:
        FormatError: there are none, or of another shape or dtype.
    """
    if source is None or source.shape != target.shape or source.dtype != target.dtype:
        raise FormatError(
            f"the checkpoint's {name} must be {target.dtype} {list(target.shape)}; "
            "delete the folder and make the index again"
        )
    target.copy_(source)


def lowest_score(dtype: torch.dtype) -> float | int:
    """The score of a place without an entry."""
    if dtype.is_floating_point:
        return float("-inf")
    return torch.iinfo(dtype).min


def best_of_each(
    group: Int[Tensor, " entry"], score: Tensor, n: int
) -> Int[Tensor, " chosen"]:
    """The n best entries of every group, by group and then from the best down.

    >>> group = torch.tensor([1, 0, 1, 1])
    >>> best_of_each(group, torch.tensor([5.0, 1.0, 7.0, 5.0]), n=2).tolist()
    [1, 2, 0]
    """
    order = score.sort(descending=True, stable=True).indices
    order = order[group[order].sort(stable=True).indices]
    return order[place_in_group(group[order]) < n]


def place_in_group(group: Int[Tensor, " entry"]) -> Int[Tensor, " entry"]:
    """How many equal numbers come before each, where equal ones are side by side.

    >>> place_in_group(torch.tensor([4, 4, 7, 9, 9, 9])).tolist()
    [0, 1, 0, 0, 1, 2]
    """
    number = torch.arange(len(group), device=group.device)
    is_first = torch.ones_like(group, dtype=torch.bool)
    is_first[1:] = group[1:] != group[:-1]
    start = number.where(is_first, 0).cummax(dim=0).values
    return number - start
