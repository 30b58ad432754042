"""Run benchmarks: print a table, and write its numbers to ``benchmarks/results``.

    python -m benchmarks NAME

``all`` runs everything that needs no GPU. ``gpu`` checks the Triton kernels on a GPU
and runs their benchmarks there; it needs only torch, triton, einops, jaxtyping,
safetensors and pytest. ``tables`` puts the numbers of ``benchmarks/results`` into the
README.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import tables
from benchmarks.measure import machine_line

KERNELS = [
    "hierarchical_loss",
    "sparse_decode",
    "topk_encode",
    "train_step",
    "quadratic_attention",
]
OTHERS = ["splice", "sweep", "resources"]
TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    """Run the benchmarks that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*KERNELS, *OTHERS, "all", "gpu", "tables"])
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where to run the benchmarks of kernels",
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        action="append",
        help="a Python with SAELens or dictionary-learning, for train_step",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=tables.RESULTS,
        help="folder to write the numbers to",
    )
    options = parser.parse_args()
    if options.name == "tables":
        tables.write()
        return
    device = "cuda" if options.name == "gpu" else options.device
    if device == "cuda" and options.name not in (*KERNELS, "gpu"):
        parser.error(
            f"--device cuda is for the benchmarks of kernels: {', '.join(KERNELS)}"
        )
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("this needs a GPU, and torch sees none here")
    for python in options.peer_python or ():
        if not python.is_file():
            parser.error(f"--peer-python {python}: there is no such program")
    try:
        options.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--results {options.results}: {error.strerror}")
    print(machine_line(device), flush=True)
    if options.name == "gpu":
        check_kernels()
    names = {"gpu": KERNELS, "all": [*KERNELS, *OTHERS]}.get(
        options.name, [options.name]
    )
    for name in names:
        # Each as soon as it is there: what comes after it can still fail.
        text = json.dumps(
            {
                "machine": machine_line(device),
                "results": _run(name, device, options.peer_python),
            },
            indent=2,
        )
        (options.results / f"{name}-{device}.json").write_text(
            text + "\n", encoding="utf-8"
        )


def check_kernels() -> None:
    """Run the checks of the Triton kernels; nothing is timed if they fail."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir=gpu",
        "--confcutdir=gpu",
        "gpu",
    ]
    if subprocess.run(command, cwd=TESTS, check=False).returncode:
        raise SystemExit(
            "the kernels do not compute what they should here, so nothing was timed"
        )


def _run(name: str, device: str, peers: list[Path] | None) -> Any:
    module = importlib.import_module(f"benchmarks.{name}")
    if name in OTHERS:
        return module.run()
    return module.run(
        device, **({"peers": peers} if name == "train_step" and peers else {})
    )


main()
