"""``sae-lens-ext demo``: the whole of this package once, on a real model.

1. Load the bundled model; prepare it if this is the first time.
2. Train a HierarchicalTopK SAE after block 9, or load the one that was kept.
3. Splice it in at k = 1, 2, 4, ..., on text it was not trained on.
4. Show which features a sentence switches on, and what the model predicts after it at each k.
5. Write the table, a figure and a page.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.demo.bundled import load_bundled
from sae_lens_ext.demo.sae import demo_sae, held_out_tokens
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
)

_N_FEATURES = 5
_N_PREDICTIONS = 5


def run_demo(
    out: Path,
    *,
    sentence: str,
    n_rows: int,
    retrain: bool,
    progress: bool,
    echo: Callable[[str], object],
) -> None:
    """Run all five steps, and hand what they find to ``echo``, text by text."""
    if not sentence.strip():
        raise InvalidArgument(
            "the sentence is empty; give one whose features you want to see, or leave --sentence out"
        )
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file; give a folder to write to with --out")
    model = load_bundled(progress=progress)
    sae = demo_sae(model, retrain=retrain, progress=progress)
    # Scoring one position in four costs a third of scoring all; the differences between values of k stay the same.
    sweep = sweep_k(
        model,
        held_out_tokens(model.tokenizer, n_rows),
        sae,
        score=slice(None, None, 4),
        progress=progress,
    )
    tokens = model.to_str_tokens(sentence)
    code, predictions = _on_sentence(model, sae, sentence, sweep["k"].tolist())
    features = strongest_features(code, _N_FEATURES)
    echo(_table(sweep))
    echo(_feature_lines(features, tokens))
    facts = {
        "model": str(sae.config.model_name),
        "site": str(sae.config.hook_name),
        "features": f"{sae.config.d_sae:,}",
        "trained at": f"every k up to {sae.config.k}",
        "evaluated on": f"{sweep.attrs['n_spliced']:,} held-out tokens",
    }
    report = Report(
        title="One sparse autoencoder, every k",
        facts=facts,
        sweep=sweep.to_dict(orient="records"),
        ends={end: sweep.attrs[end] for end in ("ce_bare", "ce_mean", "ce_zero")},
        tokens=tokens,
        codes=[_active(code, position) for position in range(len(tokens))],
        predictions=predictions,
        features=features,
    )
    _write(out, sweep, report)
    echo(
        f"\nWrote {out / 'sweep.csv'}, {out / 'frontier.png'} and {out / 'report.html'}; open the last one in a browser."
    )


def _on_sentence(
    model: Any, sae: SAE, sentence: str, ks: list[int]
) -> tuple[SparseCode, dict[str, list[tuple[str, float]]]]:
    """The sentence's code at the largest k, and the likeliest next tokens without and with the splice at each k."""
    tokens = model.to_tokens(sentence)
    with torch.no_grad():
        predictions = {"bare": _likeliest(model, model(tokens))}
        with splice(model, sae) as spliced:
            for k in ks:
                spliced.k = k
                predictions[str(k)] = _likeliest(model, model(tokens))
        return spliced.codes[str(sae.config.hook_name)][0], predictions


def _likeliest(model: Any, logits: torch.Tensor) -> list[tuple[str, float]]:
    probabilities, ids = logits[0, -1].float().softmax(dim=-1).topk(_N_PREDICTIONS)
    return [
        (model.tokenizer.decode([i]), p)
        for i, p in zip(ids.tolist(), probabilities.tolist(), strict=True)
    ]


def _active(code: SparseCode, position: int) -> list[tuple[int, float]]:
    pairs = zip(
        code.indices[position].tolist(), code.values[position].tolist(), strict=True
    )
    return [(feature, value) for feature, value in pairs if value > 0]


def _table(sweep: Any) -> str:
    """The sweep with its three ends as lines of text."""
    lines = [
        f"{'k':>14} {'l0':>6} {'fvu':>7} {'ce':>7} {'recovered':>10} {'(zero end)':>10} {'kl':>7}"
    ]
    lines.append(
        f"{'bare model':>14} {'':>6} {0:7.3f} {sweep.attrs['ce_bare']:7.3f} {1:10.3f} {1:10.3f} {0:7.3f}"
    )
    for row in sweep.itertuples():
        lines.append(
            f"{row.k:>14} {row.l0:6.1f} {row.fvu:7.3f} {row.ce:7.3f} {row.ce_recovered:10.3f} {row.ce_recovered_zero:10.3f} {row.kl:7.3f}"
        )
    lines.append(
        f"{'mean-ablated':>14} {'':>6} {1:7.3f} {sweep.attrs['ce_mean']:7.3f} {0:10.3f}"
    )
    lines.append(
        f"{'zero-ablated':>14} {'':>6} {'':>7} {sweep.attrs['ce_zero']:7.3f} {'':>10} {0:10.3f}"
    )
    return "\n".join(lines)


def _feature_lines(features: list[FeatureOnText], tokens: list[str]) -> str:
    lines = [
        f"\nThe {len(features)} strongest features on {''.join(tokens[1:])!r}, and the tokens they fire on:"
    ]
    for item in features:
        fires = ", ".join(
            f"{token.strip() or token!r} {value:.0f}"
            for token, value in item.fires_on(tokens)[:8]
        )
        lines.append(f"  feature {item.feature:>5}: {fires}")
    return "\n".join(lines)


def _write(out: Path, sweep: Any, report: Report) -> None:
    with replacing(out / "sweep.csv") as temporary:
        sweep.to_csv(temporary, index=False)
    with replacing(out / "frontier.png") as temporary:
        plot_frontier(sweep).savefig(temporary, dpi=150, format="png")
    with replacing(out / "report.html") as temporary:
        temporary.write_text(render_report(report), encoding="utf-8")
