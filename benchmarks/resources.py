"""What the Triton kernels take of a GPU: registers, spills and shared memory.

They are compiled here, for GPUs that need not be here. A spill is a value that did not
fit into registers and lives in memory; a kernel that waits for memory should have none.
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
    """The arguments that are integers; the others are pointers or constants."""
    wide: tuple[str, ...] = ()
    """Pointers to float32 in this launch, for every dtype of the inputs."""


class Resources(NamedTuple):
    """Of one kernel on one target, per thread and per program."""

    registers: int
    spills: int
    """In bytes on NVIDIA (stack and local memory), in registers on AMD."""
    shared_bytes: int


# Pointers to float32 and to integers, in every launch.
_FLOATS = {
    "p_weights",
    "p_losses",
    "p_squares",
    "p_error",
    "p_dots",
    "p_suffix",
    "p_sink",
    "p_kv",
    "p_k",
    "p_norm",
    "p_divisor",
    "p_normalizer",
    "p_x_normalizer",
    "p_y_normalizer",
    "p_sums",
}
_INTEGERS = {
    "p_indices",
    "p_targets",
    "p_starts",
    "p_stops",
    "p_order",
    "p_counts",
}

_ROW = {"BD": gpu_rows._WIDTH}
_WALK = ("FIRST", "N", "K", "D", "F")
_ATTENTION = ("T", "D", "V", "F", "CHUNK", "SLOTS")
# Based, at the sizes of its language models; the terms that ReBased lacks cost nothing.
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
    **{
        name: Kernel(
            topk_encode._select,
            {"GATED": is_gated, "BC": topk_encode._COLUMNS},
            topk_encode._WARPS,
            ("C", "OUT", "EACH", "FIRST"),
        )
        for name, is_gated in (("select", False), ("select, gated", True))
    },
    "count": Kernel(
        topk_encode._count,
        {"BC": topk_encode._COLUMNS},
        topk_encode._WARPS,
        ("C", "PIECES"),
    ),
}


def compiled(
    kernel: Kernel, target: GPUTarget, dtype: str, *, aligned: bool = True
) -> Any:
    """Compile a kernel.

    Args:
        kernel: the kernel.
        target: the GPU.
        dtype: of the inputs, in Triton's words, such as "bf16".
        aligned: whether all sizes are multiples of 16.
    """
    names = kernel.function.arg_names
    types = {name: _type_of(name, kernel, dtype) for name in names}
    divisible = [
        name
        for name in names
        if types[name].startswith("*") or (aligned and types[name] == "i32")
    ]

    constants = dict(kernel.constants)
    if "PRECISION" in constants:
        torch_dtype = torch.float32 if dtype == "fp32" else torch.bfloat16
        constants["PRECISION"] = gpu_layout.precision(
            torch_dtype, is_amd=target.backend == "hip"
        )

    source = ASTSource(
        kernel.function,
        types,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    options = {"num_warps": kernel.num_warps, "enable_fp_fusion": True}
    return triton.compile(source, target=target, options=options)


def _type_of(name: str, kernel: Kernel, dtype: str) -> str:
    """The type of an argument, in Triton's words."""
    if name in kernel.constants:
        return "constexpr"
    if name in kernel.counts:
        return "i32"
    if name == "eps":
        return "fp32"

    # The selection writes values and features packed into integers.
    is_packed = kernel.function is topk_encode._select and name == "p_out"
    if name in _INTEGERS or is_packed:
        return "*i64"
    if name in _FLOATS or name in kernel.wide:
        return "*fp32"
    return f"*{dtype}"


def resources(binary: Any, target: GPUTarget) -> Resources:
    """Read off what a compiled kernel takes."""
    if target.backend == "hip":
        pattern = re.compile(r"\.(\w+):\s*(\d+)\s*$", re.MULTILINE)
        numbers = _numbers(pattern, binary.asm["amdgcn"])
        spills = numbers["vgpr_spill_count"] + numbers["sgpr_spill_count"]
        shared_bytes = numbers["group_segment_fixed_size"]
        return Resources(numbers["vgpr_count"], spills, shared_bytes)

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary.asm["cubin"])
        command = [str(_CUOBJDUMP), "--dump-resource-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers = _numbers(re.compile(r"(REG|STACK|LOCAL):(\d+)"), done.stdout)
    spills = numbers["STACK"] + numbers["LOCAL"]
    return Resources(numbers["REG"], spills, binary.metadata.shared)


def _numbers(pattern: re.Pattern[str], text: str) -> dict[str, int]:
    return {name: int(value) for name, value in pattern.findall(text)}


def run() -> list[dict[str, Any]]:
    """Print the table; returns its rows."""
    print(
        f"triton {triton.__version__}; "
        "registers per thread, spills, bytes of shared memory"
    )
    head = "".join(f"{name:>18}" for name in TARGETS)
    print(f"{'kernel':>20} {'dtype':>6} {'warps':>6}{head}")
    return [
        measure(name, kernel, dtype)
        for name, kernel in KERNELS.items()
        for dtype in ("bf16", "fp32")
    ]


def measure(name: str, kernel: Kernel, dtype: str) -> dict[str, Any]:
    """Print one line of the table; returns its numbers."""
    usages = {
        place: resources(compiled(kernel, target, dtype), target)
        for place, target in TARGETS.items()
    }
    cells = "".join(
        f"{usage.registers:>8}{usage.spills:>4}{usage.shared_bytes:>6}"
        for usage in usages.values()
    )
    print(f"{name:>20} {dtype:>6} {kernel.num_warps:>6}{cells}")
    numbers = {place: usage._asdict() for place, usage in usages.items()}
    return {"kernel": name, "dtype": dtype, **numbers}
