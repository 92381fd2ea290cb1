import torch
from tests.kernels.triton.device import tensor

from pagedc.kernels.triton.known_tokens import launch_known_tokens
from pagedc.kernels.triton.launch import run_all


def test_ids_below_zero_are_taken_from_the_rows_that_chose_them() -> None:
    ids = tensor([5, -1, 0, -4, -2, -4], torch.int32)
    chosen = tensor([70, 71, 72, 73], torch.int32)
    run_all(launch_known_tokens(ids, chosen))
    assert ids.tolist() == [5, 70, 0, 73, 71, 73]
    assert chosen.tolist() == [70, 71, 72, 73]
