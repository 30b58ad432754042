"""Tables of the README from the numbers in ``benchmarks/results``."""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write() -> None:
    """Bring the README's tables up to date."""
    text = README.read_text(encoding="utf-8")
    README.write_text(updated(text), encoding="utf-8")


def updated(text: str) -> str:
    """A text with every ``<!-- benchmark: NAME -->`` ... ``<!-- end -->`` renewed."""
    return _BLOCK.sub(lambda block: block[1] + block_of(block[2]) + block[3], text)


def block_of(name: str) -> str:
    """A benchmark's table, and the machines and commits it comes from."""
    files = {}
    for device in ("cpu", "cuda"):
        file = RESULTS / f"{name}-{device}.json"
        if file.exists():
            files[device] = json.loads(file.read_text(encoding="utf-8"))
    lines = _TABLES[name](
        {device: content["results"] for device, content in files.items()}
    )
    machines = "; ".join(content["machine"] for content in files.values())
    return "\n".join([*lines, "", f"({machines})", ""])


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(cells) + " |"
        for cells in (header, ["---"] * len(header), *rows)
    ]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


def _hierarchical_loss(results: dict[str, list[dict[str, float]]]) -> list[str]:
    gpu = {row["k"]: row for row in results.get("cuda", [])}
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
        there = gpu.get(row["k"])
        on_gpu = (
            ""
            if there is None
            else f"{_ms(there['ours_s'])}, {there['over_compiled']:.1f}x the "
            "compiled definition"
        )
        memory = [_mb(row["cumsum_bytes"]), _mb(row["ours_bytes"])]
        ratios = [f"{row['ratio']:.0f}x", f"{row['ours_over_topk']:.2f}"]
        rows.append(
            [
                f"{row['k']}",
                _ms(row["cumsum_s"]),
                _ms(row["ours_s"]),
                *ratios,
                *memory,
                on_gpu,
            ]
        )
    return _table(header, rows)


def _against(other: str, called: str) -> Any:
    def table(results: dict[str, list[dict[str, float]]]) -> list[str]:
        gpu = {row["k"]: row for row in results.get("cuda", [])}
        rows = []
        for row in results["cpu"]:
            there = gpu.get(row["k"])
            on_gpu = (
                ""
                if there is None
                else f"{_ms(there['ours_s'])}, {there['ratio']:.1f}x"
            )
            memory = [_mb(row[f"{other}_bytes"]), _mb(row["ours_bytes"])]
            rows.append(
                [
                    f"{row['k']}",
                    _ms(row[f"{other}_s"]),
                    _ms(row["ours_s"]),
                    f"{row['ratio']:.1f}x",
                    *memory,
                    on_gpu,
                ]
            )
        return _table(
            [
                "k",
                called,
                "ours",
                "ratio",
                f"extra memory, {called}",
                "ours",
                "on a GPU",
            ],
            rows,
        )

    return table


def _train_step(results: dict[str, dict[str, Any]]) -> list[str]:
    here, there = results["cpu"], results.get("cuda")
    rows = []
    for name, called in (
        ("hierarchical", "HierarchicalTopK"),
        ("topk", "TopK"),
        ("encoder product", "the encoder's product alone"),
    ):
        rows.append(
            [
                called,
                _ms(here[f"{name}_s"]),
                "",
                "" if there is None else _ms(there[f"{name}_s"]),
            ]
        )
    rows += [
        [
            f"TopK of {peer['name']}",
            _ms(peer["peer_s"]),
            f"{peer['peer_over_ours']:.1f}x",
            "",
        ]
        for peer in here["peers"]
        if peer
    ]
    return _table(["step", "time", "of ours beside it", "on a GPU"], rows)


def _splice(results: dict[str, dict[str, float]]) -> list[str]:
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


def _sweep(results: dict[str, dict[str, float]]) -> list[str]:
    numbers = results["cpu"]
    rows = [["the blocks below the site once", f"{numbers['ratio']:.2f}"]]
    rows.append(
        [
            "`sweep_k`, with its three ends and all its columns, of eleven runs",
            f"{numbers['sweep_ratio']:.2f}",
        ]
    )
    return _table(["eight values of k, of eight spliced runs", "ratio"], rows)


def _quadratic_attention(results: dict[str, dict[str, Any]]) -> list[str]:
    gpu = {row["pos"]: row for row in results.get("cuda", {}).get("lengths", [])}
    rows = []
    for row in results["cpu"]["lengths"]:
        there = gpu.get(row["pos"])
        others = ["softmax_forward", "softmax_step"]
        softmax = [
            f"{_ms(row[f'{name}_s'])}, {row[f'{name}_ratio']:.1f}x"
            if f"{name}_s" in row
            else ""
            for name in others
        ]
        on_gpu = (
            ""
            if there is None
            else f"{_ms(there['step_s'])}, {there['softmax_step_ratio']:.1f}x"
        )
        rows.append(
            [
                f"{row['pos']:,}",
                _ms(row["forward_s"]),
                softmax[0],
                _ms(row["step_s"]),
                softmax[1],
                on_gpu,
            ]
        )
    header = [
        "tokens",
        "ours",
        "softmax attention",
        "ours, with gradients",
        "softmax attention",
        "on a GPU, with gradients",
    ]
    per_token, decoding = (
        results["cpu"]["per_token_longest_over_shortest"],
        results["cpu"]["decoding_bytes"],
    )
    memory = ", ".join(
        f"{_mb(n_bytes)} for {int(tokens):,} tokens"
        for tokens, n_bytes in decoding.items()
    )
    return [
        *_table(header, rows),
        "",
        f"A token of the longest takes {per_token:.2f} times as long as one of the "
        f"shortest. Extra memory of decoding: {memory}.",
    ]


_TABLES = {
    "hierarchical_loss": _hierarchical_loss,
    "sparse_decode": _against("dense", "dense product"),
    "topk_encode": _against("plain", "plain definition"),
    "train_step": _train_step,
    "quadratic_attention": _quadratic_attention,
    "splice": _splice,
    "sweep": _sweep,
}
