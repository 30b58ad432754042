"""Install the one wheel of a folder in an empty place; check that it is complete."""

import subprocess
import sys
import tempfile
from pathlib import Path

(wheel,) = Path(sys.argv[1]).resolve().glob("*.whl")
with tempfile.TemporaryDirectory() as folder:
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--target",
        folder,
        str(wheel),
    ]
    subprocess.run(install, check=True)
    missing = [
        name
        for name in (
            "py.typed",
            "demo/saes/blocks.9.hook_resid_post/sae_weights.safetensors",
            "viz/dial.css",
            "viz/dial.js",
            "viz/prompt.html",
            "viz/report.html",
            "viz/pages/page.css",
            "viz/pages/dashboard.js",
        )
        if not Path(folder, "sae_lens_ext", name).exists()
    ]
    if missing:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    code = "import sae_lens_ext as sle; sle.SAE, sle.splice; print(sle.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    if not Path(done.stdout.strip()).is_relative_to(Path(folder).resolve()):
        sys.exit(f"imported {done.stdout.strip()} instead of the wheel's files")
