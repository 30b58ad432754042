"""The Triton kernels compile, without spills, for GPUs that are not here."""

import pytest
from triton.backends.compiler import GPUTarget

from benchmarks import resources
from kernels.marks import by_triton

# Every two of target, dtype and alignment meet. The programs that serve backwards too
# differ there in the dtype of their inputs.
PLACES = [
    ("sm_80", "fp32", True),
    ("sm_80", "bf16", False),
    ("sm_90", "bf16", True),
    ("sm_90", "fp32", False),
    ("gfx942", "bf16", True),
    ("gfx942", "fp32", False),
]


@by_triton
@pytest.mark.parametrize(("target", "dtype", "aligned"), PLACES)
@pytest.mark.parametrize("kernel", resources.KERNELS)
def test_no_registers_are_spilled(kernel, target, dtype, aligned):
    place = resources.TARGETS[target]
    binary = resources.compiled(
        resources.KERNELS[kernel], place, dtype, aligned=aligned
    )
    usage = resources.resources(binary, place)
    assert usage.registers > 0
    assert usage.spills == 0, usage


@by_triton
@pytest.mark.parametrize("architecture", ["gfx90a", "gfx950"])
def test_half_precision_compiles_where_there_is_no_tf32(architecture):
    target = GPUTarget("hip", architecture, 64)
    resources.compiled(resources.KERNELS["sum_features"], target, "bf16")


@by_triton
@pytest.mark.parametrize(("target", "width"), [("sm_90", 2048), ("gfx942", 4096)])
def test_a_spill_would_be_seen(target, width):
    # One warp has no registers for so wide a piece of a row.
    kernel = resources.KERNELS["walk, atomic"]
    place = resources.TARGETS[target]
    wide = kernel._replace(constants={**kernel.constants, "BD": width})

    binary = resources.compiled(wide, place, "fp32")
    assert resources.resources(binary, place).spills > 0


@by_triton
def test_rows_are_read_16_bytes_at_a_time_and_added_by_vector_atomics():
    binary = resources.compiled(
        resources.KERNELS["walk, atomic"], resources.TARGETS["sm_90"], "bf16"
    )
    assert "ld.global.v4.b32" in binary.asm["ptx"]
    assert "add.v4.f32" in binary.asm["ptx"]
