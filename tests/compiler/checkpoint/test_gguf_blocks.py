from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.compiler.checkpoint.gguf_blocks import read_tensor
from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.targets.cpu.weight_layout import CpuLayout
from pagedc.kernels.cpu import layout

WriteGguf = Callable[..., Path]


def values(seed: int = 0, shape: tuple[int, ...] = (6, 64)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


BLOCKS_OF_32 = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.MXFP4]
BLOCKS_OF_256 = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]


def any_blocks(kind: Type, shape: tuple[int, ...], seed: int = 0, deviation: float = 1) -> np.ndarray:
    """Blocks of any bytes, but for scales that are finite."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // block, size), dtype=np.uint8)
    halves = {Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q6_K: (208,)}.get(kind, (0, 2))
    for offset in halves:
        values = rng.normal(0, deviation, blocks.shape[:-1]).astype(np.float16)
        blocks[..., offset : offset + 2] = values[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


@pytest.mark.parametrize("kind", BLOCKS_OF_32)
@pytest.mark.parametrize("shape", [(6, 64), (2, 3, 32), (32,)])
def test_blocks_mean_what_gguf_says(write_gguf: WriteGguf, kind: Type, shape: tuple[int, ...]) -> None:
    written = values(shape=shape)
    file = GGUFFile(write_gguf({}, {"a": written}, {"a": kind}))
    tensor = read_tensor(file, "a")
    assert isinstance(tensor, QuantizedTensor)
    assert tensor.shape == shape
    expected = gguf.quants.dequantize(gguf.quants.quantize(written, kind), kind)
    assert np.array_equal(tensor.dequantize().numpy(), expected)


@pytest.mark.parametrize("kind", BLOCKS_OF_256)
@pytest.mark.parametrize("shape", [(6, 512), (2, 3, 256), (256,)])
def test_two_levels_of_scales_lose_nothing(write_gguf: WriteGguf, kind: Type, shape: tuple[int, ...]) -> None:
    blocks = any_blocks(kind, shape)
    tensor = read_tensor(GGUFFile(write_gguf({}, {"a": blocks}, {"a": kind})), "a")
    assert isinstance(tensor, QuantizedTensor)
    assert tensor.shape == shape
    assert tensor.scales.dtype == torch.int8
    assert tensor.one_level().scales.dtype == torch.float32
    expected = gguf.quants.dequantize(blocks, kind)
    assert np.array_equal(tensor.dequantize().numpy(), expected)


@pytest.mark.parametrize("kind", [*BLOCKS_OF_32, *BLOCKS_OF_256])
def test_the_kernels_layout_holds_them_bit_for_bit(write_gguf: WriteGguf, kind: Type) -> None:
    written = values(shape=(5, 256)) if kind in BLOCKS_OF_32 else any_blocks(kind, (5, 256))
    tensor = read_tensor(GGUFFile(write_gguf({}, {"a": written}, {"a": kind})), "a")
    assert isinstance(tensor, QuantizedTensor)
    packed = CpuLayout(codes=False).pack(tensor, tensor.format)
    unpacked = layout.dequantise(tensor.format, layout.unpack(tensor.format, packed, 5, 256))
    assert np.array_equal(unpacked, tensor.dequantize().numpy())


def test_codes_are_those_of_the_packers(write_gguf: WriteGguf) -> None:
    written = values()
    for kind, bits, dtype, has_minimums in (
        (Type.Q4_0, 4, torch.uint8, False),
        (Type.Q4_1, 4, torch.uint8, True),
        (Type.Q8_0, 8, torch.int8, False),
    ):
        tensor = read_tensor(GGUFFile(write_gguf({}, {"a": written}, {"a": kind})), "a")
        assert isinstance(tensor, QuantizedTensor)
        assert (tensor.bits, tensor.codes.dtype, tensor.group_size) == (bits, dtype, 32)
        assert (tensor.minimums is not None) == has_minimums
        assert tensor.scales.shape == (6, 2)
        assert tensor.scales.dtype == torch.float16
        if bits == 4:
            assert int(tensor.codes.max()) == 15


@pytest.mark.parametrize(
    ("kind", "dtype"), [(Type.F32, torch.float32), (Type.F16, torch.float16), (Type.BF16, torch.bfloat16)]
)
def test_floats_keep_their_dtype(write_gguf: WriteGguf, kind: Type, dtype: torch.dtype) -> None:
    written = values()
    tensor = read_tensor(GGUFFile(write_gguf({}, {"a": written}, {"a": kind})), "a")
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == dtype
    assert torch.equal(tensor, torch.from_numpy(written).to(dtype))


def test_other_blocks_become_float32(write_gguf: WriteGguf) -> None:
    blocks = np.random.default_rng(0).integers(0, 64, (6, 18), dtype=np.uint8)
    tensor = read_tensor(GGUFFile(write_gguf({}, {"a": blocks}, {"a": Type.IQ4_NL})), "a")
    assert isinstance(tensor, torch.Tensor)
    expected = gguf.quants.dequantize(blocks, Type.IQ4_NL)
    assert np.array_equal(tensor.numpy(), expected)


def test_rows_move_with_their_scales(write_gguf: WriteGguf) -> None:
    tensor = read_tensor(GGUFFile(write_gguf({}, {"a": values()}, {"a": Type.Q4_1})), "a")
    assert isinstance(tensor, QuantizedTensor)
    index = torch.tensor([5, 0, 3, 1, 2, 4])
    assert torch.equal(tensor.map(lambda part: part[index]).dequantize(), tensor.dequantize()[index])
