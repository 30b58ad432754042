"""Tables of SAEs that were trained."""

from statistics import fmean
from typing import Any

from benchmarks.tables.layout import table


def jumprelu(results: dict[str, dict[str, Any]]) -> list[str]:
    """A JumpReLU SAE beside a hierarchical one."""
    numbers = results["cpu"]
    titles = {
        "jumprelu": "JumpReLU, of SAELens' runner",
        "hierarchical": "HierarchicalTopK, of the same documents",
    }
    header = ["SAE", "k", "active features", "FVU", "CE", "CE recovered", "KL"]
    rows = []
    for row in numbers["rows"]:
        rows.append(
            [
                titles[row["sae"]],
                "all active" if row["k"] is None else f"{row['k']}",
                f"{row['l0']:.1f}",
                f"{row['fvu']:.3f}",
                f"{row['ce']:.2f}",
                f"{row['ce_recovered']:.2f}",
                f"{row['kl']:.2f}",
            ]
        )
    sentence = (
        f"The bare model has a cross-entropy of {numbers['ce_bare']:.2f} nats; with "
        f"the site replaced by its mean, {numbers['ce_mean']:.2f}."
    )
    return [*table(header, rows), "", sentence]


def retrofit(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A TopK SAE before and after it was made good at every k."""
    rows = results["cpu"]
    ks = list(rows[0]["fvu"])
    header = ["SAE", "tokens", *(f"k = {k}" for k in ks), "features kept"]
    lines = []
    for row in rows:
        cells = [f"{row['fvu'][k]:.3f} ({row['ratio'][k]:.2f})" for k in ks]
        tokens = f"{row['tokens']:,}" if "tokens" in row else ""
        kept = f"{row['features_kept']:.1%}" if "features_kept" in row else ""
        lines.append([row["name"], tokens, *cells, kept])
    return table(header, lines)


def recipe(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Recipes of hierarchical SAEs beside an SAE for each k."""
    rows = results["cpu"]
    ks = [k for k in rows[0]["fvu"] if f"TopK {k}" in {row["name"] for row in rows}]
    header = ["SAE", *(f"FVU at {k}" for k in ks), *(f"CE at {k}" for k in ks)]
    means = {
        (name, metric, k): _mean_of_seeds(rows, name, metric, k)
        for name in dict.fromkeys(row["name"] for row in rows)
        for metric in ("fvu", "ce_recovered")
        for k in ks
    }
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [name]
        for k in ks:
            fvu = means[name, "fvu", k]
            ratio = fvu / means[f"TopK {k}", "fvu", k]
            cells.append(f"{fvu:.3f} ({ratio:.3f})")
        cells += [f"{means[name, 'ce_recovered', k]:.3f}" for k in ks]
        lines.append(cells)
    return table(header, lines)


def _mean_of_seeds(rows: list[dict[str, Any]], name: str, metric: str, k: str) -> float:
    return fmean(row[metric][k] for row in rows if row["name"] == name)


def bundled_saes(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The SAEs of the package on text that they have not seen."""
    rows = results["cpu"]
    ks = list(rows[0]["fvu"])
    header = ["site", "text", *(f"k = {k}" for k in ks)]
    lines = []
    for row in rows:
        cells = [f"{row['ce_recovered'][k]:.2f} ({row['fvu'][k]:.2f})" for k in ks]
        lines.append([f"`{row['site']}`", row["text"], *cells])
    return table(header, lines)


def demo_saes(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The SAE of the demo on more rows of the same text."""
    rows = [
        [
            row["text"],
            str(row["rows"]),
            str(row["k"]),
            f"{row['ce_recovered']:.3f}",
            f"{row['fvu']:.3f}",
            f"{row['kl']:.3f}",
        ]
        for row in results["cpu"]
    ]
    return table(["text", "rows", "k", "CE recovered", "FVU", "KL"], rows)


def fisher_share(results: dict[str, dict[str, Any]]) -> list[str]:
    """SAEs whose loss takes the Fisher information into account, by its share."""
    numbers = results["cpu"]
    rows = [row for row in numbers["saes"] if row["k"] == 32]
    texts = list(dict.fromkeys(row["text"] for row in rows))
    header = ["share", "dead features"]
    for text in texts:
        header += [f"{text}: FVU", "CE recovered", "KL"]
    lines = []
    for share in dict.fromkeys(row["share"] for row in rows):
        of_setting = {row["text"]: row for row in rows if row["share"] == share}
        dead = next(iter(of_setting.values()))["dead"]
        line = [f"{share:g}", f"{dead:.0%}"]
        for text in texts:
            row = of_setting[text]
            line += [
                f"{row['fvu']:.3f}",
                f"{row['ce_recovered']:.3f}",
                f"{row['kl']:.3f}",
            ]
        lines.append(line)
    direction = numbers["direction"]
    sentence = (
        f"At k=32. The direction of the largest variance has "
        f"{direction['variance_share']:.0%} of it; the predictions are "
        f"{direction['sensitivity_of_mean']:.3f} times as sensitive to it as on "
        "average."
    )
    return [*table(header, lines), "", sentence]


def train_run(results: dict[str, dict[str, Any]]) -> list[str]:
    """What a whole training takes."""
    numbers = results["cpu"]
    rows = [
        [
            "from a text, of the model's forward to the site alone",
            f"{numbers['whole_over_forward']:.2f}",
        ],
        [
            "reading a cache of activations, of a training from it",
            f"{numbers['read_share']:.1%}",
        ],
    ]
    peer = numbers["saelens"]
    # Without its environment there is no comparison.
    if peer:
        rows.append(
            [
                f"SAELens {peer['version']} from a cache, of ours beside it",
                f"{peer['saelens_over_ours']:.1f}",
            ]
        )
    return table(["training", "ratio of times"], rows)
