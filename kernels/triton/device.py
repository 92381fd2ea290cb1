"""Functions that several kernels call."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """With programmatic dependent launch: what the kernel before wrote may be read only after this."""
    if PDL:
        gdc_wait()


@triton.jit
def let_next_start(PDL: tl.constexpr):
    """With programmatic dependent launch: the next kernel may start, up to its own wait."""
    if PDL:
        gdc_launch_dependents()


@triton.jit
def dot(a, b, acc, INTERPRET: tl.constexpr):
    """acc + a · b in float32. The interpreter's product of bfloat16 is garbage, so it gets float32."""
    if INTERPRET:
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def prefetch(pointers):
    """Ask for the 128 bytes at each pointer to be brought into the second-level cache. Not interpreted."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )
