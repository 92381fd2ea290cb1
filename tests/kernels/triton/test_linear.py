"""The Triton linear against the reference, in every weight format and shape of tile."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton
import triton.language as tl
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.kernels.reference.linear import linear as reference
from pagedc.kernels.triton import linear
from pagedc.kernels.triton.launch import KernelConfig, config, run_all
from pagedc.kernels.triton.linear import LinearSpec
from pagedc.kernels.triton.weights import WeightTensors, pack_int4, parse_format

SKINNY = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=64, SLICED=1)
TILED = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=64, SLICED=0)
PERSISTENT = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=64, SLICED=0, PROGRAMS=3)
CONFIGS = {"skinny": SKINNY, "tiled": TILED, "persistent": PERSISTENT}
UNTOUCHED = 7.0
Float32 = npt.NDArray[np.float32]


def random_weight(name: str, shape: tuple[int, ...], seed: int = 0) -> tuple[WeightTensors, Float32]:
    """A matrix [..., n, k] in a format, and the float32 that it stands for."""
    rng, weight_format = np.random.default_rng(seed), parse_format(name)
    if weight_format.bits >= 16 or name == "fp8":
        dtypes = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        codes = tensor(rng.standard_normal(shape), torch.float32).to(dtypes.get(name, torch.float8_e4m3fn))
        values = codes.float().cpu().numpy()
    elif weight_format.bits == 8:
        codes = tensor(rng.integers(-127, 128, shape), torch.int8)
        values = codes.cpu().numpy().astype(np.float32)
    else:
        codes = tensor(rng.integers(0, 16, shape), torch.uint8)
        values = codes.cpu().numpy().astype(np.float32) - (0 if weight_format.has_minimum else 8)
        codes = pack_int4(codes)
    scales = minimums = None
    if weight_format.has_row_scale:
        scales = tensor(rng.random(shape[:-1]) * 0.1, torch.float32)
        values = values * scales.cpu().numpy()[..., None]
    elif size := weight_format.group_size:
        groups = (*shape[:-1], shape[-1] // size)
        scales = tensor(rng.random(groups) * 0.1, torch.float16)
        values = values * np.repeat(scales.float().cpu().numpy(), size, axis=-1)
        if weight_format.has_minimum:
            minimums = tensor(rng.standard_normal(groups), torch.float16)
            values = values + np.repeat(minimums.float().cpu().numpy(), size, axis=-1)
    return WeightTensors(codes, scales, minimums), values


def random_x(num_tokens: int, k: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rng = np.random.default_rng(num_tokens)
    return tensor(rng.standard_normal((num_tokens, k + 8)), torch.float32).to(dtype)[:, :k]


def run(
    spec: LinearSpec, config: KernelConfig, x: torch.Tensor, weight: WeightTensors, counters: torch.Tensor
) -> torch.Tensor:
    num_tokens = x.shape[0]
    floats, _ = linear.scratch_sizes(spec, config, num_tokens)
    partial = torch.full((max(floats, 1),), float("nan"), device=DEVICE)
    out = torch.full((num_tokens, spec.n + 3), UNTOUCHED, device=DEVICE)
    run_all(linear.launch_linear(spec, config, x, weight, out[:, : spec.n], partial, counters))
    assert (counters == 0).all()
    assert (out[:, spec.n :] == UNTOUCHED).all()
    return out[:, : spec.n]


def counters() -> torch.Tensor:
    return torch.zeros(64, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("launch_config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("num_tokens", "n", "k"), [(1, 32, 256), (19, 43, 200), (3, 16, 640)])
@pytest.mark.parametrize("name", ["f32", "f16"])
def test_matches_the_reference(
    name: str, num_tokens: int, n: int, k: int, launch_config: KernelConfig
) -> None:
    spec = LinearSpec(n=n, k=k, weight_format=name, split_k=2)
    weight, values = random_weight(name, (n, k))
    x = random_x(num_tokens, k, weight.codes.dtype)
    out = run(spec, launch_config, x, weight, counters())
    tolerance = 1e-4 if name == "f32" else 2e-3
    np.testing.assert_allclose(
        out.cpu().numpy(), reference(x.float().cpu().numpy(), values), rtol=tolerance, atol=tolerance
    )


QUANTISED = ("int8_g0", "int8_g32", "int4_g32", "int4_g64_min", "int4_g128_min")


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights(name: str) -> None:
    n, k = 20, 384
    spec = LinearSpec(n=n, k=k, weight_format=name, split_k=3)
    weight, values = random_weight(name, (n, k))
    x = random_x(5, k)
    wide = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=128, SLICED=1)
    out = run(spec, wide, x, weight, counters())
    expected = reference(x.cpu().numpy(), values)
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.gpu
def test_fp8_and_bfloat16() -> None:  # which the interpreter cannot multiply
    for name in ("fp8", "bf16"):
        spec = LinearSpec(n=96, k=512, weight_format=name)
        weight, values = random_weight(name, (96, 512))
        x = random_x(9, 512, torch.bfloat16)
        out = run(spec, linear.defaults(spec, 9), x, weight, counters())
        expected = reference(x.float().cpu().numpy(), values)
        np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "int8_g32", "int4_g32_min"])
def test_the_same_bits_in_every_bucket(name: str) -> None:
    """That the tensor cores add alike whatever the width of a tile is nowhere promised."""
    spec = LinearSpec(n=192, k=1024, weight_format=name, split_k=4)
    weight, _ = random_weight(name, (192, 1024))
    x = random_x(400, 1024, torch.bfloat16)
    together = run(spec, linear.defaults(spec, 400), x, weight, counters())
    for num_tokens in (1, 20, 100, 200):
        alone = run(spec, linear.defaults(spec, num_tokens), x[:num_tokens], weight, counters())
        assert torch.equal(alone, together[:num_tokens]), num_tokens
    for persistent in (c for c in linear.candidates(spec, 400) if "PROGRAMS" in c):
        assert torch.equal(run(spec, persistent, x, weight, counters()), together), persistent


def test_the_same_bits_in_any_batch_and_tile() -> None:
    spec = LinearSpec(n=40, k=520, weight_format="f32", split_k=4)
    weight, _ = random_weight("f32", (40, 520))
    x = random_x(18, 520)
    together = run(spec, TILED, x, weight, counters())
    assert torch.equal(run(spec, SKINNY, x, weight, counters()), together)
    assert linear.reads_by_descriptors(spec, PERSISTENT, x)
    assert torch.equal(run(spec, PERSISTENT, x, weight, counters()), together)
    assert torch.equal(run(spec, SKINNY, x[17:], weight, counters()), together[17:])


@triton.jit
def add_bias_and_residual(acc, tokens, token_mask, first_column, out, e0, e1, e2, e3, e4, e5):
    """out = acc + bias + residual, rows of 43."""
    columns = first_column + tl.arange(0, acc.shape[1])
    mask = token_mask[:, None] & (columns < 43)[None, :]
    places = tokens[:, None] * 43 + columns[None, :]
    bias = tl.load(e0 + columns, mask=columns < 43, other=0.0)
    residual = tl.load(e1 + places, mask=mask, other=0.0)
    tl.store(out + places, acc + bias[None, :] + residual, mask=mask)


@pytest.mark.parametrize("launch_config", CONFIGS.values(), ids=CONFIGS)
def test_an_epilogue_gets_the_tile_and_stores_it(launch_config: KernelConfig) -> None:
    spec = LinearSpec(n=43, k=256, weight_format="f32", split_k=2)
    weight, values = random_weight("f32", (43, 256))
    x, bias, residual = random_x(3, 256), random_x(1, 43)[0].contiguous(), random_x(3, 43).contiguous()
    out, partial = torch.zeros(3, 43, device=DEVICE), torch.zeros(2 * 3 * 43, device=DEVICE)
    run_all(
        linear.launch_linear(
            spec, launch_config, x, weight, out, partial, counters(),
            epilogue=add_bias_and_residual, extra=(bias, residual),
        )
    )  # fmt: skip
    expected = reference(x.cpu().numpy(), values) + bias.cpu().numpy() + residual.cpu().numpy()
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_rows_off_16_bytes_are_read_by_pointers() -> None:
    """A descriptor's rows begin at multiples of 16 bytes."""
    spec = LinearSpec(n=32, k=64, weight_format="f32")
    x = torch.zeros(4, 67, device=DEVICE)
    assert linear.reads_by_descriptors(spec, PERSISTENT, torch.zeros(4, 68, device=DEVICE)[:, 4:])
    for odd in (x[:, :64], torch.zeros(4, 68, device=DEVICE)[:, 1:65]):
        assert not linear.reads_by_descriptors(spec, PERSISTENT, odd)
        weight, _ = random_weight("f32", (32, 64))
        (launch,) = linear.launch_linear(spec, PERSISTENT, odd, weight, x)
        assert launch.name == "linear_kernel"


def test_slices_cover_k_and_are_whole_tiles() -> None:
    for n, k in (
        (4096, 4096),
        (28672, 4096),
        (4096, 14336),
        (128256, 4096),
        (576, 1536),
        (49152, 576),
        (7, 5),
    ):
        spec = LinearSpec(n=n, k=k, weight_format="bf16")
        assert spec.slice_k * spec.num_slices >= k > spec.slice_k * (spec.num_slices - 1)
        assert spec.slice_k % linear.SLICE_ALIGNMENT == 0


def test_slices_want_scratch() -> None:
    spec = LinearSpec(n=16, k=256, weight_format="f32", split_k=2)
    weight, _ = random_weight("f32", (16, 256))
    with pytest.raises(ValueError, match="2 slices wants partial"):
        linear.launch_linear(spec, SKINNY, random_x(1, 256), weight, None)


@pytest.mark.parametrize("name", ["int3_g32", "int4_g16", "q4"])
def test_a_format_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        parse_format(name)
