"""Run a kernel with per-sequence state over a schedule of steps, as an engine would."""

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tests.kernels.abi import PagedcBatch, aligned_zeros, make_batch, pointer
from tests.kernels.harness import compile_harness

Float32 = npt.NDArray[np.float32]
Step = list[tuple[int, int, int]]  # (sequence, first position, end position)
NUM_SLOTS = 5

SOURCE = """
#include "{header}"
using namespace pagedc;

extern "C" void* make_team(int size) {{ return new Team(size); }}
extern "C" void free_team(void* team) {{ delete static_cast<Team*>(team); }}
"""


def compile_cases(header: str, cases: Sequence[str], march: str) -> ctypes.CDLL:
    """Each case defines `size_<i>()`, in floats, and `run_<i>(team, batch, in, ld, state, out, ldo)`."""
    library = compile_harness(SOURCE.format(header=header) + "".join(cases), march)
    library.make_team.restype = ctypes.c_void_p
    library.make_team.argtypes = (ctypes.c_int,)
    library.free_team.argtypes = (ctypes.c_void_p,)
    for i in range(len(cases)):
        getattr(library, f"size_{i}").restype = ctypes.c_int64
        getattr(library, f"run_{i}").restype = None
        getattr(library, f"run_{i}").argtypes = (
            *(ctypes.c_void_p, ctypes.POINTER(PagedcBatch), ctypes.c_void_p, ctypes.c_void_p),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),
        )
    return library


def run_steps(
    library: ctypes.CDLL,
    index: int,
    sequences: Sequence[Sequence[Float32 | None]],  # of each: [tokens, …] an input, or None
    constants: Sequence[Float32 | None],
    steps: Sequence[Step],
    width: int,
    *,
    num_threads: int = 1,
) -> list[Float32]:
    """[tokens, width] a sequence. Slots hold NaN at first; a sequence has slot `sequence % NUM_SLOTS`."""
    size = getattr(library, f"size_{index}")()
    state = aligned_zeros(NUM_SLOTS * size * 4).view(np.float32)
    state[:] = np.nan
    outs = [np.full((next(len(x) for x in s if x is not None), width), np.nan, np.float32) for s in sequences]
    team = library.make_team(num_threads)
    try:
        for step in steps:
            arrays, addresses, strides = [], [], []
            for number in range(len(sequences[0])):
                parts = [sequences[s][number] for s, _, _ in step]
                rows = [
                    x[b:e].reshape(e - b, -1)
                    for x, (_, b, e) in zip(parts, step, strict=True)
                    if x is not None
                ]
                # Behind each row stand other values, as a fused linear writes them.
                wide = np.pad(np.concatenate(rows), ((0, 0), (0, 3)), constant_values=9) if rows else None
                arrays.append(wide)
                addresses.append(pointer(wide) or 0)
                strides.append(0 if wide is None else wide.shape[1])
            for constant in constants:
                addresses.append(pointer(constant) or 0)
                strides.append(0)
            starts = np.cumsum([0, *(e - b for _, b, e in step)], dtype=np.int32)
            positions = np.concatenate([np.arange(b, e, dtype=np.int32) for _, b, e in step])
            slots = np.array([s % NUM_SLOTS for s, _, _ in step], np.int32)
            batch = make_batch(
                num_tokens=len(positions),
                num_seqs=len(step),
                positions=positions,
                query_start_loc=starts,
                state_slots=slots,
            )
            out = np.full((len(positions), width + 5), 7, np.float32)
            pointers, lds = np.array(addresses, np.uint64), np.array(strides, np.int64)
            getattr(library, f"run_{index}")(
                team, batch, pointer(pointers), pointer(lds), pointer(state), pointer(out), out.shape[1]
            )
            assert (out[:, width:] == 7).all()
            for i, (s, begin, end) in enumerate(step):
                outs[s][begin:end] = out[starts[i] : starts[i + 1], :width]
    finally:
        library.free_team(team)
    return outs


def schedules(lengths: Sequence[int]) -> dict[str, list[Step]]:
    """The same tokens as whole prompts, one by one, in mixed batches; the last sequence has a used slot."""
    whole = [[(s, 0, n)] for s, n in enumerate(lengths)]
    single = [[(s, t, t + 1)] for s, n in enumerate(lengths) for t in range(n)]
    mixed: list[Step] = []
    starts = [0] * len(lengths)
    for number in range(max(lengths)):
        step = []
        for s, n in list(enumerate(lengths))[:NUM_SLOTS]:
            size = 1 + (7 * s + 3 * number) % 5
            if starts[s] < n and (s + number) % 3 != 0:
                step.append((s, starts[s], min(starts[s] + size, n)))
                starts[s] = min(starts[s] + size, n)
        if step:
            mixed.append(step)
    mixed += [[(s, begin, n)] for s, (begin, n) in enumerate(zip(starts, lengths, strict=True)) if begin < n]
    return {"whole": whole, "single": single, "mixed": mixed}
