"""Tables of the kernels and of a training step."""

from collections.abc import Callable
from typing import Any

from benchmarks.tables.layout import Row, gpu_rows, mb, ms, table


def hierarchical_loss(results: dict[str, list[Row]]) -> list[str]:
    """The loss at every k beside its definition and plain TopK."""
    gpu = gpu_rows(results.get("cuda", []), "k")
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
            on_gpu = f"{ms(there['ours_s'])}, {ratio}"

        rows.append(
            [
                f"{row['k']}",
                ms(row["cumsum_s"]),
                ms(row["ours_s"]),
                f"{row['ratio']:.0f}x",
                f"{row['ours_over_topk']:.2f}",
                mb(row["cumsum_bytes"]),
                mb(row["ours_bytes"]),
                on_gpu,
            ]
        )
    return table(header, rows)


def against(plain: str, title: str) -> Callable[[dict[str, list[Row]]], list[str]]:
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

    def lines(results: dict[str, list[Row]]) -> list[str]:
        gpu = gpu_rows(results.get("cuda", []), "k")
        rows = []
        for row in results["cpu"]:
            on_gpu = ""
            if row["k"] in gpu:
                there = gpu[row["k"]]
                on_gpu = f"{ms(there['ours_s'])}, {there['ratio']:.1f}x"

            rows.append(
                [
                    f"{row['k']}",
                    ms(row[f"{plain}_s"]),
                    ms(row["ours_s"]),
                    f"{row['ratio']:.1f}x",
                    mb(row[f"{plain}_bytes"]),
                    mb(row["ours_bytes"]),
                    on_gpu,
                ]
            )
        return table(header, rows)

    return lines


def train_step(results: dict[str, dict[str, Any]]) -> list[str]:
    """A step of training, and those of other libraries."""
    here = results["cpu"]
    there = results.get("cuda")
    titles = {
        "hierarchical": "HierarchicalTopK",
        "topk": "TopK",
        "encoder product": "the encoder's product alone",
    }
    rows = []
    for name, title in titles.items():
        on_gpu = "" if there is None else ms(there[f"{name}_s"])
        rows.append([title, ms(here[f"{name}_s"]), "", on_gpu])

    # A library whose environment was missing left an empty entry.
    for peer in filter(None, here["peers"]):
        ratio = f"{peer['peer_over_ours']:.1f}x"
        rows.append([f"TopK of {peer['name']}", ms(peer["peer_s"]), ratio, ""])
    return table(["step", "time", "of ours beside it", "on a GPU"], rows)


def quadratic_attention(results: dict[str, dict[str, Any]]) -> list[str]:
    """Linear attention beside softmax attention, by length."""
    gpu = gpu_rows(results.get("cuda", {}).get("lengths", []), "pos")
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
        return f"{ms(row[f'{name}_s'])}, {row[f'{name}_ratio']:.1f}x"

    rows = []
    for row in results["cpu"]["lengths"]:
        on_gpu = ""
        if row["pos"] in gpu:
            there = gpu[row["pos"]]
            on_gpu = f"{ms(there['step_s'])}, {there['softmax_step_ratio']:.1f}x"

        rows.append(
            [
                f"{row['pos']:,}",
                ms(row["forward_s"]),
                beside(row, "softmax_forward"),
                ms(row["step_s"]),
                beside(row, "softmax_step"),
                on_gpu,
            ]
        )

    per_token = results["cpu"]["per_token_longest_over_shortest"]
    memory = ", ".join(
        f"{mb(n_bytes)} for {int(tokens):,} tokens"
        for tokens, n_bytes in results["cpu"]["decoding_bytes"].items()
    )
    sentence = (
        f"A token of the longest takes {per_token:.2f} times as long as one of the "
        f"shortest. Extra memory of decoding: {memory}."
    )
    return [*table(header, rows), "", sentence]
