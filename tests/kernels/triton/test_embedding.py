import pytest
import torch
from tests.kernels.triton.device import DEVICE, tensor
from tests.kernels.triton.test_linear import random_weight

from pagedc.kernels.reference.linear import embedding as reference
from pagedc.kernels.triton.embedding import EmbeddingSpec, launch_embedding
from pagedc.kernels.triton.launch import config, run_all

IDS = [7, 0, 12, 12]


@pytest.mark.parametrize("name", ["f32", "bf16", "int8_g0", "int8_g32", "int4_g32", "int4_g64_min"])
@pytest.mark.parametrize("width", [64, 192])
def test_rows_are_dequantised_exactly(name: str, width: int) -> None:
    weight, values = random_weight(name, (13, width))
    ids = tensor(IDS, torch.int32)
    out = torch.full((len(IDS), width + 3), 7.0, device=DEVICE)
    spec = EmbeddingSpec(vocab_size=13, width=width, weight_format=name)
    run_all(launch_embedding(spec, config(1, 1, BLOCK=128), ids, weight, out[:, :width]))
    expected = torch.from_numpy(reference(ids.cpu().numpy(), values))
    torch.testing.assert_close(out[:, :width].cpu(), expected, rtol=1e-6, atol=1e-6)
    assert (out[:, width:] == 7.0).all()
