"""What the Triton kernels use of a GPU: registers, spills and shared memory.

They are compiled here for GPUs that need not be here.

A spill is a value that did not fit into registers and lives in memory; a kernel that
waits for memory should have none.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import gpu as hierarchical_loss
from sae_lens_ext.kernels.quadratic_attention import (
    gpu_gradients,
    gpu_layout,
    gpu_states,
    gpu_sums,
)
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap
from sae_lens_ext.kernels.topk_encode import gpu as topk_encode

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Kernel(NamedTuple):
    """A kernel as it is launched for wide rows."""

    function: Any
    constants: dict[str, Any]
    num_warps: int
    counts: tuple[str, ...]
    """The arguments that are whole numbers; the others are pointers or constants."""
    wide: tuple[str, ...] = ()
    """Pointers to float32 in this launch, whatever the dtype of the inputs is."""


class Resources(NamedTuple):
    """Of one kernel on one target, per thread and per program."""

    registers: int
    spills: int
    """In bytes on NVIDIA (stack and local memory), in registers on AMD."""
    shared_bytes: int


_ROW = {"BD": gpu_rows._WIDTH}
_FLOATS = {
    "p_weights",
    "p_losses",
    "p_squares",
    "p_error",
    "p_dots",
    "p_suffix",
    "p_sink",
}
_FLOATS |= {
    "p_kv",
    "p_k",
    "p_norm",
    "p_divisor",
    "p_normalizer",
    "p_x_normalizer",
    "p_y_normalizer",
    "p_sums",
}
_INTEGERS = {"p_indices", "p_targets", "p_starts", "p_stops", "p_order"}
_WALK = ("FIRST", "N", "K", "D", "F")
_ATTENTION = ("T", "D", "V", "F", "CHUNK", "SLOTS")
# Based, at the sizes of its language models; what ReBased leaves out costs nothing.
_BASED = FeatureMap((1.0, 1.0, 0.5), 0.25, 1e-12)
_QUADRATIC = (
    "C0",
    "C1",
    "C2",
    "SCALE",
    "W0",
    "W1",
    "W_SQUARE",
    "W_PAIR",
    "PRECISION",
    "BT",
    "BD",
    "BV",
)


def _attention(
    program: Any,
    counts: tuple[str, ...] = (),
    wide: tuple[str, ...] = (),
    **constants: Any,
) -> Kernel:
    is_grad = program is gpu_gradients._grad_scores
    find_tiles = gpu_layout.grad_tiles if is_grad else gpu_layout.tiles
    values = (*gpu_layout.constants(_BASED, "ieee"), *find_tiles(16, 64))
    named = dict(zip(_QUADRATIC, values, strict=True)) | constants
    num_warps = gpu_layout.GRAD_WARPS if is_grad else gpu_layout.WARPS
    return Kernel(program, named, num_warps, (*_ATTENTION, *counts), wide)


KERNELS = {
    "weighted_row_sum": Kernel(
        gpu_rows._weighted_row_sum,
        {"HAS_BIAS": True, "BK": gpu_rows._ROWS, **_ROW},
        1,
        ("K", "D", "F"),
    ),
    "row_dots": Kernel(
        gpu_rows._row_dots, {"BK": gpu_rows._ROWS, **_ROW}, 1, ("K", "D", "F")
    ),
    "add_segments": Kernel(
        gpu_rows._add_segments,
        {"ADD": False, "BE": gpu_rows._ROWS, "BD": gpu_rows._SEGMENT_WIDTH},
        gpu_rows._SEGMENT_WARPS,
        ("ENTRIES_PER_ROW", "D"),
    ),
    **{
        f"walk, {mode}": Kernel(
            hierarchical_loss._walk,
            {"GRADIENTS": True, "GRAD_W": mode, "DETAILS": details, **_ROW},
            1,
            _WALK,
        )
        for mode, details in (("atomic", False), ("scratch", True))
    },
    "sum_values": _attention(
        gpu_sums._sum_values, ("BLOCKS", "KINDS"), REVERSE=False, HAS_STATE=True
    ),
    "sum_values, back": _attention(
        gpu_sums._sum_values,
        ("BLOCKS", "KINDS"),
        ("p_value",),
        REVERSE=True,
        HAS_STATE=True,
    ),
    "grad_scores": _attention(
        gpu_gradients._grad_scores,
        ("BLOCKS",),
        ("p_x_value",),
        REVERSE=False,
        HAS_STATE=True,
    ),
    "grad_scores, back": _attention(
        gpu_gradients._grad_scores,
        ("BLOCKS",),
        ("p_y_value",),
        REVERSE=True,
        HAS_STATE=True,
    ),
    "sum_features": _attention(gpu_states._sum_features, REVERSE=False),
    "sum_features, back": _attention(
        gpu_states._sum_features, (), ("p_value",), REVERSE=True
    ),
    "add_up": Kernel(
        gpu_states._add_up,
        {"REVERSE": True, "BW": gpu_states.SCAN},
        gpu_layout.WARPS,
        ("SLOTS", "WIDTH"),
    ),
    "select": Kernel(
        topk_encode._select,
        {"BC": topk_encode._COLUMNS},
        topk_encode._WARPS,
        ("C", "OUT", "EACH", "FIRST"),
    ),
}


def compiled(
    kernel: Kernel, target: GPUTarget, dtype: str, *, aligned: bool = True
) -> Any:
    """A kernel for a target and a dtype such as "bf16".

    ``aligned`` means that all sizes are multiples of 16.
    """
    names = kernel.function.arg_names
    types = dict.fromkeys(kernel.constants, "constexpr") | dict.fromkeys(
        kernel.counts, "i32"
    )
    for name in names:
        if name not in types:
            packed = kernel.function is topk_encode._select and name == "p_out"
            floats = name in _FLOATS or name in kernel.wide
            types[name] = (
                "fp32"
                if name == "eps"
                else "*i64"
                if name in _INTEGERS or packed
                else "*fp32"
                if floats
                else f"*{dtype}"
            )
    divisible = [
        name
        for name in names
        if types[name].startswith("*") or (aligned and types[name] == "i32")
    ]
    constants = dict(kernel.constants)
    if "PRECISION" in constants:
        input_dtype = torch.float32 if dtype == "fp32" else torch.bfloat16
        constants["PRECISION"] = gpu_layout.precision(
            input_dtype, is_amd=target.backend == "hip"
        )
    source = ASTSource(
        kernel.function,
        {name: types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    return triton.compile(
        source,
        target=target,
        options={"num_warps": kernel.num_warps, "enable_fp_fusion": True},
    )


def resources(binary: Any, target: GPUTarget) -> Resources:
    """What a compiled kernel takes."""
    if target.backend == "hip":
        counts = {
            name: int(value)
            for name, value in re.findall(
                r"\.(\w+):\s*(\d+)\s*$", binary.asm["amdgcn"], re.MULTILINE
            )
        }
        spills = counts["vgpr_spill_count"] + counts["sgpr_spill_count"]
        return Resources(
            counts["vgpr_count"], spills, counts["group_segment_fixed_size"]
        )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary.asm["cubin"])
        command = [str(_CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout
    counts = {
        name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)
    }
    return Resources(
        counts["REG"], counts["STACK"] + counts["LOCAL"], binary.metadata.shared
    )


def run() -> list[dict[str, Any]]:
    """Print the table; returns its rows."""
    print(
        f"triton {triton.__version__}; registers per thread, spills, "
        "bytes of shared memory"
    )
    print(
        f"{'kernel':>20} {'dtype':>6} {'warps':>6}"
        + "".join(f"{name:>18}" for name in TARGETS)
    )
    rows = []
    for name, kernel in KERNELS.items():
        for dtype in ("bf16", "fp32"):
            resources = {
                place: resources(compiled(kernel, target, dtype), target)
                for place, target in TARGETS.items()
            }
            cells = "".join(
                f"{needs.registers:>8}{needs.spills:>4}{needs.shared_bytes:>6}"
                for needs in resources.values()
            )
            print(f"{name:>20} {dtype:>6} {kernel.num_warps:>6}{cells}")
            rows.append(
                {
                    "kernel": name,
                    "dtype": dtype,
                    **{place: needs._asdict() for place, needs in resources.items()},
                }
            )
    return rows
