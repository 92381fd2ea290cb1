import numpy as np
import pytest
import torch
from tests.kernels.triton.device import DEVICE, tensor
from tests.kernels.triton.test_linear import random_weight

from pagedc.kernels.reference.linear import grouped_linear as reference
from pagedc.kernels.triton.grouped_linear import GroupedSpec, launch_grouped_linear, scratch_ints
from pagedc.kernels.triton.launch import config, run_all
from pagedc.kernels.triton.weights import WeightTensors

CONFIG = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=128)


def spread(weight: WeightTensors) -> WeightTensors:
    """The same with experts further apart."""
    parts = [weight.codes, weight.scales, weight.minimums]
    wide = [part if part is None else torch.nn.functional.pad(part, (0, 0, 0, 3))[:, :-3] for part in parts]
    return WeightTensors(wide[0], wide[1], wide[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["f32", "int8_g32", "int4_g32_min"])
@pytest.mark.parametrize(("num_tokens", "experts", "top_k"), [(1, 5, 3), (21, 3, 2)])
@pytest.mark.parametrize("shared_x", [True, False])
def test_each_row_goes_through_its_own_expert(
    name: str, num_tokens: int, experts: int, top_k: int, shared_x: bool
) -> None:
    n, k = 40, 160
    spec = GroupedSpec(experts=experts, n=n, k=k, top_k=top_k, shared_x=shared_x, weight_format=name)
    rng = np.random.default_rng(0)
    weight, values = random_weight(name, (experts, n, k))
    weight = spread(weight)
    ids = np.array([rng.permutation(experts)[:top_k] for _ in range(num_tokens)], np.int32)
    ids[num_tokens // 2 :] = ids[0]  # crowded experts
    wide_ids = tensor(np.concatenate([ids, ids], axis=1))
    x = rng.standard_normal((num_tokens, 1 if shared_x else top_k, k)).astype(np.float32)
    scratch = torch.full((scratch_ints(spec, CONFIG, num_tokens),), 99, dtype=torch.int32, device=DEVICE)
    out = torch.full((num_tokens * top_k, n + 3), 7.0, device=DEVICE)
    flat = tensor(x.reshape(-1, k))
    run_all(launch_grouped_linear(spec, CONFIG, flat, wide_ids[:, :top_k], weight, out[:, :n], scratch))
    expected = reference(x, ids, values).reshape(-1, n)
    np.testing.assert_allclose(
        out[:, :n].cpu().numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )
    assert (out[:, n:] == 7.0).all()
