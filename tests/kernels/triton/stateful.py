"""Run a kernel with per-sequence state over a schedule of steps, padded to buckets as an executor does."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tests.kernels.state_harness import NUM_SLOTS, Float32, Step
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.kernels.triton.launch import Launch, run_all
from pagedc.kernels.triton.state import StateInputs

PADDING, UNTOUCHED = 5, 7.0
# (inputs [T, …] as rows, state, out, whether each sequence has one token) → launches
Launcher = Callable[[list[torch.Tensor], StateInputs, torch.Tensor, bool], list[Launch]]


def run_steps(
    launch: Launcher,
    state_floats: int,
    sequences: Sequence[Sequence[Float32]],  # of each: [tokens, …] an input
    steps: Sequence[Step],
    width: int,
) -> list[Float32]:
    """[tokens, width] a sequence. Slots hold NaN at first; a sequence has slot `sequence % NUM_SLOTS`."""
    state = torch.full((NUM_SLOTS, state_floats), float("nan"), device=DEVICE)
    outs = [np.full((len(s[0]), width), np.nan, np.float32) for s in sequences]
    for step in steps:
        sizes = [end - begin for _, begin, end in step]
        num_tokens, num_seqs = sum(sizes), len(step)
        decodes = sizes == [1] * num_seqs
        bucket = num_seqs + 2  # a padded sequence has no tokens, one in a decode has a row
        rows = num_tokens + 2
        starts = np.full(bucket + 1, num_tokens, np.int32)
        starts[: num_seqs + 1] = np.cumsum([0, *sizes])
        lens, slots = np.zeros((2, bucket), np.int32)
        lens[:num_seqs], slots[:num_seqs] = [e for _, _, e in step], [s % NUM_SLOTS for s, _, _ in step]
        inputs = []
        for number in range(len(sequences[0])):
            parts = [sequences[s][number][b:e].reshape(e - b, -1) for s, b, e in step]
            wide = np.full((rows, parts[0].shape[1] + 3), 9, np.float32)  # as a fused linear writes them
            wide[:num_tokens, :-3] = np.concatenate(parts)
            inputs.append(tensor(wide)[:, :-3])
        out = torch.full((rows, width + PADDING), UNTOUCHED, device=DEVICE)
        arrays = StateInputs(
            state=state, slots=tensor(slots), context_lens=tensor(lens), query_start_loc=tensor(starts)
        )
        run_all(launch(inputs, arrays, out[:, :width], decodes))
        assert (out[:, width:] == UNTOUCHED).all()
        assert (out[num_tokens:] == UNTOUCHED).all()
        for i, (s, begin, end) in enumerate(step):
            outs[s][begin:end] = out[starts[i] : starts[i + 1], :width].cpu().numpy()
    return outs
