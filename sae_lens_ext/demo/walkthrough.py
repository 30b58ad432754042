"""The whole of this package once, on a real model: what ``sae-lens-ext demo`` shows.

1. Load the bundled model; prepare it if this is the first time.
2. Load the HierarchicalTopK SAE after block 9 that comes with the package.
3. Splice it in at k = 1, 2, 4, ..., on text it was not trained on.
4. Show which features a sentence activates, and what the model predicts after it at
   each k.
5. Write the table, a figure and a page.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.demo.bundled import load_bundled
from sae_lens_ext.demo.sae import check_block, demo_sae, held_out_tokens
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.interventions import splice, sweep_k
from sae_lens_ext.sae import SAE, SparseCode
from sae_lens_ext.viz import (
    FeatureOnText,
    Report,
    plot_frontier,
    render_report,
    strongest_features,
    sweep_as_text,
)

_N_FEATURES = 5
_N_PREDICTIONS = 5
# Tokens that are printed for a feature, its strongest.
_N_TOKENS = 8


def walk_through(
    out: Path,
    *,
    block: int,
    sentence: str,
    n_rows: int,
    progress: bool,
    echo: Callable[[str], object],
) -> None:
    """Take all five steps of the demo.

    Args:
        out: folder for ``sweep.csv``, ``frontier.png`` and ``report.html``.
        block: after which block the SAE is: 5, 9 or 13.
        sentence: text whose features are shown.
        n_rows: held-out rows of 128 tokens to sweep over.
        progress: whether to show progress bars.
        echo: called with every text of the results, such as ``print``.

    Raises:
        InvalidArgument: the sentence is empty, ``out`` is a file, or there is no SAE
            after that block.
    """
    check_block(block)
    if not sentence.strip():
        raise InvalidArgument(
            "the sentence is empty; give one whose features you want to see, or leave "
            "--sentence out"
        )
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file; give a folder to write to with --out")

    model = load_bundled(progress=progress)
    sae = demo_sae(model, block)
    held_out = held_out_tokens(model.tokenizer, n_rows)
    # Scoring one position in four costs a third of scoring all; the differences between
    # values of k stay the same.
    every_fourth = slice(None, None, 4)
    sweep = sweep_k(
        model,
        held_out,
        sae,
        score=every_fourth,
        progress=progress,
    )

    ks = sweep["k"].tolist()
    tokens = model.to_str_tokens(sentence)
    code, predictions = _on_sentence(model, sae, sentence, ks)
    features = strongest_features(code, _N_FEATURES)
    echo(sweep_as_text(sweep))
    echo(_features_as_text(features, tokens))

    positions = range(len(tokens))
    codes = [_active_features(code, position) for position in positions]
    report = Report(
        title="One sparse autoencoder, every k",
        facts=_facts(sae, sweep),
        sweep=sweep.to_dict(orient="records"),
        ends={end: sweep.attrs[end] for end in ("ce_bare", "ce_mean", "ce_zero")},
        tokens=tokens,
        codes=codes,
        predictions=predictions,
        features=features,
    )
    paths = _write(out, sweep, report)
    *results, page = [str(path) for path in paths]
    names = ", ".join(results)
    echo(f"\nWrote {names} and {page}; open the last one in a browser.")


def _on_sentence(
    model: Any,
    sae: SAE,
    sentence: str,
    ks: list[int],
) -> tuple[SparseCode, dict[str, list[tuple[str, float]]]]:
    """The code of a sentence at the largest k, and the likeliest tokens after it.

    The predictions are those of the bare model, under ``"bare"``, and of the spliced
    model under each k.
    """
    tokens = model.to_tokens(sentence)
    site = str(sae.config.hook_name)
    with torch.no_grad():
        logits = model(tokens)
        predictions = {"bare": _likeliest(model, logits)}

        # One splice for every k: k is an argument of the SAE, not a model of its own.
        with splice(model, sae) as spliced:
            for k in ks:
                spliced.k = k
                logits = model(tokens)
                predictions[str(k)] = _likeliest(model, logits)

        # The last k is the largest.
        code = spliced.codes[site][0]
    return code, predictions


def _likeliest(model: Any, logits: torch.Tensor) -> list[tuple[str, float]]:
    last_logits = logits[0, -1].float()
    distribution = last_logits.softmax(dim=-1)
    probabilities, ids = distribution.topk(_N_PREDICTIONS)

    # One id at a time: as a whole they would be decoded to one text.
    words = [model.tokenizer.decode([token_id]) for token_id in ids.tolist()]
    pairs = zip(words, probabilities.tolist(), strict=True)
    return list(pairs)


def _active_features(code: SparseCode, position: int) -> list[tuple[int, float]]:
    features = code.indices[position].tolist()
    values = code.values[position].tolist()
    pairs = zip(features, values, strict=True)
    # A token with fewer than k active features has zeros after them.
    return [(feature, value) for feature, value in pairs if value > 0]


def _facts(sae: SAE, sweep: Any) -> dict[str, str]:
    return {
        "model": str(sae.config.model_name),
        "site": str(sae.config.hook_name),
        "features": f"{sae.config.d_sae:,}",
        "trained at": f"every k up to {sae.config.k}",
        "evaluated on": f"{sweep.attrs['n_spliced']:,} held-out tokens",
    }


def _features_as_text(features: list[FeatureOnText], tokens: list[str]) -> str:
    # Without the beginning-of-sequence token.
    sentence = "".join(tokens[1:])
    lines = [
        f"\nThe {len(features)} strongest features on {sentence!r}, "
        "and the tokens they fire on:"
    ]
    for feature in features:
        strongest = feature.fires_on(tokens)[:_N_TOKENS]
        fires = []
        for token, value in strongest:
            # Without the blank before a word; a token of blanks alone stays whole.
            word = token.strip() or token
            fires.append(f"{word!r} {value:.0f}")
        lines.append(f"  feature {feature.feature:>5}: {', '.join(fires)}")
    return "\n".join(lines)


def _write(out: Path, sweep: Any, report: Report) -> list[Path]:
    """Write the results; the page is the last of the returned paths."""
    table = out / "sweep.csv"
    picture = out / "frontier.png"
    page = out / "report.html"
    with replacing(table) as temporary:
        sweep.to_csv(temporary, index=False)

    with replacing(picture) as temporary:
        figure = plot_frontier(sweep)
        # The temporary file has no suffix that tells the format.
        figure.savefig(temporary, dpi=150, format="png")

    with replacing(page) as temporary:
        html = render_report(report)
        temporary.write_text(html, encoding="utf-8")
    return [table, picture, page]
