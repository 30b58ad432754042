"""The numbers of ``benchmarks/results`` as tables of the README and the docs.

So every number that stands there was printed by a benchmark.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parent / "results"
_ROOT = Path(__file__).parents[1]
PAGES = [
    _ROOT / "README.md",
    _ROOT / "docs" / "published_saes.md",
    _ROOT / "docs" / "recipe.md",
    _ROOT / "docs" / "training.md",
]
_BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, float]


def write() -> None:
    """Bring the tables up to date."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(updated(text), encoding="utf-8")


def updated(text: str) -> str:
    """Replace every block between ``<!-- benchmark: NAME -->`` and ``<!-- end -->``."""
    return _BLOCK.sub(lambda block: block[1] + block_of(block[2]) + block[3], text)


def block_of(name: str) -> str:
    """A benchmark's table, with the machines and commits that it comes from."""
    files = {}
    for device in ("cpu", "cuda"):
        path = RESULTS / f"{name}-{device}.json"
        if path.exists():
            files[device] = json.loads(path.read_text(encoding="utf-8"))

    results = {device: contents["results"] for device, contents in files.items()}
    machines = "; ".join(contents["machine"] for contents in files.values())
    return "\n".join([*_TABLES[name](results), "", f"({machines})", ""])


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    lines = (header, ["---"] * len(header), *rows)
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _ms(seconds: float) -> str:
    digits = 0 if seconds >= 0.01 else 1
    return f"{1e3 * seconds:,.{digits}f} ms"


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


def _gpu_rows(rows: list[Row], key: str) -> dict[float, Row]:
    """The rows of a GPU by k or by length."""
    return {row[key]: row for row in rows}


def _hierarchical_loss(results: dict[str, list[Row]]) -> list[str]:
    gpu = _gpu_rows(results.get("cuda", []), "k")
    header = [
        "k",
        "plain definition",
        "ours",
        "ratio",
        "of plain TopK",
        "extra memory, plain",
        "ours",
        "on a GPU",
    ]
    rows = []
    for row in results["cpu"]:
        on_gpu = ""
        if row["k"] in gpu:
            there = gpu[row["k"]]
            ratio = f"{there['over_compiled']:.1f}x the compiled definition"
            on_gpu = f"{_ms(there['ours_s'])}, {ratio}"

        rows.append(
            [
                f"{row['k']}",
                _ms(row["cumsum_s"]),
                _ms(row["ours_s"]),
                f"{row['ratio']:.0f}x",
                f"{row['ours_over_topk']:.2f}",
                _mb(row["cumsum_bytes"]),
                _mb(row["ours_bytes"]),
                on_gpu,
            ]
        )
    return _table(header, rows)


def _against(plain: str, title: str) -> Callable[[dict[str, list[Row]]], list[str]]:
    """The table of a kernel beside a plain version."""
    header = [
        "k",
        title,
        "ours",
        "ratio",
        f"extra memory, {title}",
        "ours",
        "on a GPU",
    ]

    def table(results: dict[str, list[Row]]) -> list[str]:
        gpu = _gpu_rows(results.get("cuda", []), "k")
        rows = []
        for row in results["cpu"]:
            on_gpu = ""
            if row["k"] in gpu:
                there = gpu[row["k"]]
                on_gpu = f"{_ms(there['ours_s'])}, {there['ratio']:.1f}x"

            rows.append(
                [
                    f"{row['k']}",
                    _ms(row[f"{plain}_s"]),
                    _ms(row["ours_s"]),
                    f"{row['ratio']:.1f}x",
                    _mb(row[f"{plain}_bytes"]),
                    _mb(row["ours_bytes"]),
                    on_gpu,
                ]
            )
        return _table(header, rows)

    return table


def _train_step(results: dict[str, dict[str, Any]]) -> list[str]:
    here = results["cpu"]
    there = results.get("cuda")
    titles = {
        "hierarchical": "HierarchicalTopK",
        "topk": "TopK",
        "encoder product": "the encoder's product alone",
    }
    rows = []
    for name, title in titles.items():
        on_gpu = "" if there is None else _ms(there[f"{name}_s"])
        rows.append([title, _ms(here[f"{name}_s"]), "", on_gpu])

    # A library whose environment was missing left an empty entry.
    for peer in filter(None, here["peers"]):
        ratio = f"{peer['peer_over_ours']:.1f}x"
        rows.append([f"TopK of {peer['name']}", _ms(peer["peer_s"]), ratio, ""])
    return _table(["step", "time", "of ours beside it", "on a GPU"], rows)


def _splice(results: dict[str, Row]) -> list[str]:
    numbers = results["cpu"]
    rows = [
        [
            "spliced, of the bare forward and the encoder's product",
            f"{numbers['over_floor']:.2f}",
        ],
        [
            "with an error term and three ablations, of that",
            f"{numbers['error_over_spliced']:.2f}",
        ],
        [
            "what SAELens adds, of what this package adds, both with their error term",
            f"{numbers['saelens_over_ours']:.1f}",
        ],
    ]
    return _table(["forward up to the splice", "ratio"], rows)


def _sweep(results: dict[str, Row]) -> list[str]:
    numbers = results["cpu"]
    rows = [
        ["the blocks below the site once", f"{numbers['ratio']:.2f}"],
        [
            "`sweep_k`, with its three ends and all its columns, of eleven runs",
            f"{numbers['sweep_ratio']:.2f}",
        ],
    ]
    return _table(["eight values of k, of eight spliced runs", "ratio"], rows)


def _quadratic_attention(results: dict[str, dict[str, Any]]) -> list[str]:
    gpu = _gpu_rows(results.get("cuda", {}).get("lengths", []), "pos")
    header = [
        "tokens",
        "ours",
        "softmax attention",
        "ours, with gradients",
        "softmax attention",
        "on a GPU, with gradients",
    ]

    def beside(row: Row, name: str) -> str:
        if f"{name}_s" not in row:
            return ""
        return f"{_ms(row[f'{name}_s'])}, {row[f'{name}_ratio']:.1f}x"

    rows = []
    for row in results["cpu"]["lengths"]:
        on_gpu = ""
        if row["pos"] in gpu:
            there = gpu[row["pos"]]
            on_gpu = f"{_ms(there['step_s'])}, {there['softmax_step_ratio']:.1f}x"

        rows.append(
            [
                f"{row['pos']:,}",
                _ms(row["forward_s"]),
                beside(row, "softmax_forward"),
                _ms(row["step_s"]),
                beside(row, "softmax_step"),
                on_gpu,
            ]
        )

    per_token = results["cpu"]["per_token_longest_over_shortest"]
    memory = ", ".join(
        f"{_mb(n_bytes)} for {int(tokens):,} tokens"
        for tokens, n_bytes in results["cpu"]["decoding_bytes"].items()
    )
    sentence = (
        f"A token of the longest takes {per_token:.2f} times as long as one of the "
        f"shortest. Extra memory of decoding: {memory}."
    )
    return [*_table(header, rows), "", sentence]


def _jumprelu(results: dict[str, dict[str, Any]]) -> list[str]:
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
    return [*_table(header, rows), "", sentence]


def _retrofit(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = results["cpu"]
    ks = list(rows[0]["fvu"])
    header = ["SAE", "tokens", *(f"k = {k}" for k in ks), "features kept"]
    lines = []
    for row in rows:
        cells = [f"{row['fvu'][k]:.3f} ({row['ratio'][k]:.2f})" for k in ks]
        tokens = f"{row['tokens']:,}" if "tokens" in row else ""
        kept = f"{row['features_kept']:.1%}" if "features_kept" in row else ""
        lines.append([row["name"], tokens, *cells, kept])
    return _table(header, lines)


def _recipe(results: dict[str, list[dict[str, Any]]]) -> list[str]:
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
    return _table(header, lines)


def _mean_of_seeds(rows: list[dict[str, Any]], name: str, metric: str, k: str) -> float:
    return fmean(row[metric][k] for row in rows if row["name"] == name)


def _bundled_saes(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = results["cpu"]
    ks = list(rows[0]["fvu"])
    header = ["site", "text", *(f"k = {k}" for k in ks)]
    lines = []
    for row in rows:
        cells = [f"{row['ce_recovered'][k]:.2f} ({row['fvu'][k]:.2f})" for k in ks]
        lines.append([f"`{row['site']}`", row["text"], *cells])
    return _table(header, lines)


def _circuit_tracer(results: dict[str, dict[str, Any]]) -> list[str]:
    numbers = results["cpu"]
    titles = {
        "alone": "activations, on the same inputs",
        "in the model": "activations, in its model",
        "in the graph": "activations, in its graph",
        "reconstructions": "reconstructions",
        "errors": "errors, in its model",
    }
    header = ["k", "FVU", "active features", *titles.values(), "nodes of the graph"]
    lines = []
    for row in numbers["rows"]:
        differences = [row["differences"][name] for name in titles]
        lines.append(
            [
                f"{row['k']}",
                f"{row['fvu']:.3f}",
                f"{row['active']:,}",
                *(f"{value:.1e}" if value else "0" for value in differences),
                f"{row['graph']['nodes']}",
            ]
        )
    versions = ", ".join(
        f"{name} {version}" for name, version in numbers["versions"].items()
    )
    sentence = (
        f"With {versions}. On circuit-tracer's TransformerLens backend the MLP's "
        f"inputs are off by {numbers['lens_error']:.0%} of their norm (median)."
    )
    return [*_table(header, lines), "", sentence]


def _fisher_share(results: dict[str, dict[str, Any]]) -> list[str]:
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
    return [*_table(header, lines), "", sentence]


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "hierarchical_loss": _hierarchical_loss,
    "sparse_decode": _against("dense", "dense product"),
    "topk_encode": _against("plain", "torch.topk"),
    "train_step": _train_step,
    "quadratic_attention": _quadratic_attention,
    "splice": _splice,
    "sweep": _sweep,
    "jumprelu": _jumprelu,
    "retrofit": _retrofit,
    "recipe": _recipe,
    "bundled_saes": _bundled_saes,
    "fisher_share": _fisher_share,
    "circuit_tracer": _circuit_tracer,
}
