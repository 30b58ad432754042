"""``python -m benchmarks hierarchical_loss [--json FILE]``, or ``all``."""

import argparse
import importlib
import json
from pathlib import Path

from benchmarks.measure import machine_line

NAMES = ["hierarchical_loss", "splice", "sweep"]


def main() -> None:
    """Run the benchmarks that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    print(machine_line())
    results = {}
    for name in NAMES if options.name == "all" else [options.name]:
        results[name] = importlib.import_module(f"benchmarks.{name}").run()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine_line(), "results": results}, indent=2) + "\n", encoding="utf-8")


main()
