"""Tables of what is done with a model and its SAEs."""

from typing import Any

from benchmarks.tables.layout import Row, mb, table


def splice(results: dict[str, Row]) -> list[str]:
    """What a splice costs."""
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
    return table(["forward up to the splice", "ratio"], rows)


def sweep(results: dict[str, Row]) -> list[str]:
    """What a sweep over k costs."""
    numbers = results["cpu"]
    rows = [
        ["the blocks below the site once", f"{numbers['ratio']:.2f}"],
        [
            "`sweep_k`, with its three ends and all its columns, of eleven runs",
            f"{numbers['sweep_ratio']:.2f}",
        ],
    ]
    return table(["eight values of k, of eight spliced runs", "ratio"], rows)


def circuit_tracer(results: dict[str, dict[str, Any]]) -> list[str]:
    """What circuit-tracer computes with transcoders of this package."""
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
    return [*table(header, lines), "", sentence]


def until_kl(results: dict[str, Row]) -> list[str]:
    """What a bound on the prediction saves, and what it costs."""
    numbers = results["cpu"]
    header = [
        "bound, nats",
        "mean k",
        "mean KL",
        "constant k of that mean KL",
        "mean k, of that",
        "within the bound",
    ]
    bounds = [name.removeprefix("mean_k_") for name in numbers if "mean_k_" in name]
    rows = []
    for bound in bounds:
        mean_k = numbers[f"mean_k_{bound}"]
        constant = numbers[f"constant_k_{bound}"]
        has_constant = constant is not None
        rows.append(
            [
                bound.replace("_powers", ", by powers of two").replace(
                    "_fine", ", of 15 values of k"
                ),
                f"{mean_k:.1f}",
                f"{numbers[f'mean_kl_{bound}']:.3f}",
                f"{constant:.1f}" if has_constant else "none",
                f"{mean_k / constant:.2f}" if has_constant else "",
                f"{numbers[f'within_{bound}']:.0%}",
            ]
        )
    sentence = (
        "Generating with the bound 0.05 takes "
        f"{numbers['splice_overhead']:.2f} times the bare model's own generation by "
        f"`Splice.generate` ({numbers['splice_fine_overhead']:.2f} with 15 values of "
        f"k), and {numbers['model_overhead']:.2f} times by the model's "
        f"`generate`. The splice at a constant k takes "
        f"{numbers['constant_overhead']:.2f} times the bare model's."
    )
    return [*table(header, rows), "", sentence]


def feature_index(results: dict[str, Row]) -> list[str]:
    """What an index of features takes."""
    numbers = results["cpu"]
    rows = [
        [
            f"{numbers['tokens']:,}",
            f"{numbers['index_over_bare']:.2f}",
            mb(numbers["resident_peak"]),
        ]
    ]
    return table(
        ["tokens", "time, of the model's forward to the site", "peak memory"], rows
    )
