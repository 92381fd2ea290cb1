"""Where the kernels of these tests run."""

import torch

from pagedc.kernels.triton.launch import is_interpreted

DEVICE = "cpu" if is_interpreted() else "cuda"


def tensor(array: object, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A numpy array on the kernels' device."""
    return torch.as_tensor(array, dtype=dtype).to(DEVICE)
