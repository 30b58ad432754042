"""From the numbers of an index to the page of one feature."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.features.counts import histogram_edges
from sae_lens_ext.features.folder import Contents
from sae_lens_ext.hosts import shown_name
from sae_lens_ext.viz.pages import Bin, Context, FeaturePage, Neighbour, Quantile

_N_QUANTILES = 5
_PER_QUANTILE = 3

LabelsByFeature = Mapping[int, str | None]


def page_of(
    contents: Contents,
    feature: int,
    labels: LabelsByFeature,
) -> FeaturePage:
    """The page of a feature.

    Args:
        contents: of the index.
        feature: its number, checked.
        labels: by feature.
    """
    about = contents.about
    tensors = contents.tensors
    n_active = int(tensors["levels"][feature].sum())
    n_tokens = int(about["n_tokens"])
    facts = {"site": str(about["site"]), "tokens": f"{n_tokens:,}"}
    if about["model_name"] is not None:
        facts = {"model": shown_name(str(about["model_name"])), **facts}

    top = _contexts(contents, feature, "top")
    return FeaturePage(
        feature=feature,
        label=labels.get(feature),
        facts=facts,
        n_active=n_active,
        density=n_active / n_tokens,
        largest=top[0].activation if top else 0.0,
        histogram=_histogram(tensors["histogram"][feature]),
        at_k=_at_k(tensors["levels"][feature], about["levels"]),
        smallest_rank=int(tensors["smallest_rank"][feature]) if n_active else None,
        promoted=_tokens(contents, feature, "promoted"),
        suppressed=_tokens(contents, feature, "suppressed"),
        logit_note=str(about["logit_note"]),
        nearest=_nearest(tensors, feature, labels),
        contexts=top,
        quantiles=_quantiles(_contexts(contents, feature, "sample"), n_active),
    )


def _histogram(counts: Int[Tensor, " bins"]) -> list[Bin]:
    """The bins from the first to the last that is not empty."""
    used = counts.nonzero().flatten().tolist()
    if not used:
        return []
    edges = [0.0, *histogram_edges().tolist(), float("inf")]
    return [
        Bin(edges[number], edges[number + 1], int(counts[number]))
        for number in range(used[0], used[-1] + 1)
    ]


def _at_k(
    levels: Int[Tensor, " levels"],
    ks: Sequence[int],
) -> list[tuple[int, float]]:
    """The share of activations that is left at each k."""
    n_active = int(levels.sum())
    if not n_active:
        return []
    shares = (levels.cumsum(0).double() / n_active).tolist()
    return list(zip(ks, shares, strict=True))


def _tokens(
    contents: Contents,
    feature: int,
    kind: str,
) -> list[tuple[str, float]]:
    if f"{kind}.ids" not in contents.tensors:
        return []
    ids = contents.tensors[f"{kind}.ids"][feature].tolist()
    effects = contents.tensors[f"{kind}.effects"][feature].tolist()
    return [
        (contents.strings[number], effect)
        for number, effect in zip(ids, effects, strict=True)
    ]


def _nearest(
    tensors: Mapping[str, Tensor], feature: int, labels: LabelsByFeature
) -> list[Neighbour]:
    numbers = tensors["nearest.features"][feature].tolist()
    cosines = tensors["nearest.cosines"][feature].tolist()
    return [
        Neighbour(number, cosine, labels.get(number))
        for number, cosine in zip(numbers, cosines, strict=True)
    ]


def _contexts(
    contents: Contents,
    feature: int,
    kind: str,
) -> list[Context]:
    """The contexts of the strongest, or of the sample, that there are."""
    part = {
        name: contents.tensors[f"{kind}.{name}"][feature]
        for name in ("score", "row", "position", "ids", "activations")
    }
    middle = part["ids"].shape[1] // 2
    # The middle of a window is the token itself, where there is one.
    is_there = part["activations"][:, middle] > 0
    lines = is_there.nonzero().flatten().tolist()
    return [
        _context({name: values[line] for name, values in part.items()}, contents)
        for line in lines
    ]


def _context(
    part: Mapping[str, Tensor],
    contents: Contents,
) -> Context:
    """One context, without the places outside of the text."""
    is_text = part["ids"] >= 0
    middle = len(is_text) // 2
    activations: Float[Tensor, " window"] = part["activations"]
    return Context(
        tokens=[contents.strings[number] for number in part["ids"][is_text].tolist()],
        activations=activations[is_text].tolist(),
        at=int(is_text[:middle].sum()),
        row=int(part["row"]),
        position=int(part["position"]),
    )


def _quantiles(
    sample: Sequence[Context],
    n_active: int,
) -> list[Quantile]:
    """Groups of one size by activation, from the strongest down, some of each.

    Args:
        sample: a uniform sample of the activations, or all.
        n_active: how many there are.
    """
    ordered = sorted(sample, key=lambda context: -context.activation)
    n_groups = min(_N_QUANTILES, len(ordered))
    groups = []
    for number in range(n_groups):
        start = number * len(ordered) // n_groups
        end = (number + 1) * len(ordered) // n_groups
        group = ordered[start:end]
        n_shown = min(_PER_QUANTILE, len(group))
        # From the first to the last, evenly.
        shown = [group[place * len(group) // n_shown] for place in range(n_shown)]
        groups.append(
            Quantile(
                low=1 - (number + 1) / n_groups,
                high=1 - number / n_groups,
                smallest=group[-1].activation,
                largest=group[0].activation,
                contexts=shown,
                is_sampled=n_active > len(ordered),
            )
        )
    return groups
