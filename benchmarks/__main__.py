"""``python -m benchmarks NAME``: print a table, and write its numbers to ``benchmarks/results``.

``all`` runs everything that needs no GPU, ``gpu`` everything that needs one. ``tables`` puts the numbers of ``benchmarks/results`` into the
README.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.measure import machine_line

KERNELS = ["hierarchical_loss", "sparse_decode", "topk_encode", "train_step"]
OTHERS = ["splice", "sweep", "resources"]


def main() -> None:
    """Run the benchmarks that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*KERNELS, *OTHERS, "all", "gpu", "tables"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run the benchmarks of kernels")
    parser.add_argument("--peer-python", type=Path, action="append", help="a Python with SAELens or dictionary-learning, for train_step")
    parser.add_argument("--results", type=Path, default=tables.RESULTS, help="folder to write the numbers to")
    options = parser.parse_args()
    if options.name == "tables":
        tables.write()
        return
    device = "cuda" if options.name == "gpu" else options.device
    print(machine_line(device), flush=True)
    if options.name == "gpu":
        results = importlib.import_module("benchmarks.gpu").run(device)
    else:
        results = {name: _run(name, options) for name in ([*KERNELS, *OTHERS] if options.name == "all" else [options.name])}
    options.results.mkdir(parents=True, exist_ok=True)
    for name, numbers in results.items():
        text = json.dumps({"machine": machine_line(device), "results": numbers}, indent=2)
        (options.results / f"{name}-{device}.json").write_text(text + "\n", encoding="utf-8")


def _run(name: str, options: argparse.Namespace) -> Any:
    module = importlib.import_module(f"benchmarks.{name}")
    if name in OTHERS:
        return module.run()
    peers = {"peers": options.peer_python} if name == "train_step" and options.peer_python else {}
    return module.run(options.device, **peers)


main()
