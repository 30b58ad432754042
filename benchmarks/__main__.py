"""Print a table, and write its numbers: ``python -m benchmarks NAME``.

Numbers go to ``benchmarks/results``, and ``tables`` puts those of there into the
README and the docs. ``all`` runs everything that needs no GPU, except ``behaviours``,
which runs many circuits; ``corpus``, which fetches packages; ``demo_saes``,
``feature_index`` and ``until_kl``, which read what it fetches; ``bundled_saes``,
``fisher_share``, ``recipe`` and ``retrofit``, which train for long; and
``circuit_tracer``, which needs an environment of its own. ``gpu`` checks the Triton
kernels on a GPU and runs their benchmarks there; it needs no more than torch, triton,
einops, jaxtyping, safetensors and pytest.
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
    "topk_encode_gated",
    "train_step",
    "quadratic_attention",
]
OTHERS = [
    "splice",
    "sweep",
    "circuits",
    "circuit_memory",
    "lengths",
    "resources",
    "jumprelu",
    "train_memory",
    "train_run",
]
LONG = [
    "behaviours",
    "bundled_saes",
    "circuit_tracer",
    "corpus",
    "demo_saes",
    "feature_index",
    "fisher_share",
    "recipe",
    "retrofit",
    "until_kl",
]
TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    """Run the benchmarks that the command line names."""
    options = _options()
    if options.name == "tables":
        tables.write()
        return

    print(machine_line(options.device), flush=True)
    if options.name == "gpu":
        check_kernels()

    groups = {"gpu": KERNELS, "all": [*KERNELS, *OTHERS]}
    for name in groups.get(options.name, [options.name]):
        # Written at once: the benchmarks after it can still fail.
        contents = {
            "machine": machine_line(options.device),
            "results": _run(name, options.device, options.peer_python),
        }
        file = options.results / f"{name}-{options.device}.json"
        file.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    """The options, checked before anything is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [*KERNELS, *OTHERS, *LONG, "all", "gpu", "tables"]
    parser.add_argument("name", choices=names)
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
        help="a Python with SAELens or dictionary-learning, for train_step; one with "
        "circuit-tracer, for circuit_tracer",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=tables.RESULTS,
        help="folder to write the numbers to",
    )
    options = parser.parse_args()

    if options.name == "tables":
        return options
    if options.name == "gpu":
        options.device = "cuda"

    if options.device == "cuda" and options.name not in (*KERNELS, "gpu"):
        names = ", ".join(KERNELS)
        parser.error(f"--device cuda is for the benchmarks of kernels: {names}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this needs a GPU, and torch sees none here")
    for python in options.peer_python or ():
        if not python.is_file():
            parser.error(f"--peer-python {python}: there is no such program")
    try:
        options.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--results {options.results}: {error.strerror}")
    return options


def check_kernels() -> None:
    """Run the checks of the Triton kernels on the GPU.

    Raises:
        SystemExit: a check fails; then nothing is timed.
    """
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
    # The package need not be installed on a rented machine.
    paths = [str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if subprocess.run(command, cwd=TESTS, env=environment, check=False).returncode:
        raise SystemExit(
            "the kernels do not compute what they should here, so nothing was timed"
        )


def _run(name: str, device: str, peers: list[Path] | None) -> Any:
    module = importlib.import_module(f"benchmarks.{name}")
    # The first is the one with SAELens, or with circuit-tracer.
    if name in ("circuit_tracer", "train_run") and peers:
        return module.run(peers[0])
    if name in OTHERS or name in LONG:
        return module.run()
    if name == "train_step" and peers:
        return module.run(device, peers=peers)
    return module.run(device)


if __name__ == "__main__":
    main()
