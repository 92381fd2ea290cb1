import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.packing import FORMATS, pack, random_unpacked

from pagedc.kernels.cpu import layout


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 50), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_unpacking_gives_back_what_was_packed(name: str, rows: int, groups: int, seed: int) -> None:
    columns = groups * (layout.parse_format(name).span or 7)
    unpacked = random_unpacked(name, rows, columns, np.random.default_rng(seed))
    packed = pack(name, unpacked)
    assert packed.shape == (layout.packed_bytes(name, rows, columns),)
    again = layout.unpack(name, packed, rows, columns)
    np.testing.assert_array_equal(again.values, unpacked.values)
    np.testing.assert_equal(again.scales, unpacked.scales)
    np.testing.assert_equal(again.minimums, unpacked.minimums)
    np.testing.assert_equal(again.units, unpacked.units)


def test_a_panel_of_int4_is_laid_out_as_the_kernel_reads_it() -> None:
    codes = np.zeros((16, 32), np.uint8)
    codes[3, 8 + 5] = 9  # vector 1, word 2 · 3 + 1, nibble 2
    scales = np.arange(16, dtype=np.float16)[:, None]
    packed = layout.pack_int4(codes, scales, -scales)
    words = packed[:256].view(np.uint16)
    assert np.flatnonzero(words).tolist() == [32 + 7]
    assert words[32 + 7] == 9 << 8
    np.testing.assert_array_equal(packed[256:].view(np.float16), np.concatenate([scales, -scales])[:, 0])


def test_weights_are_coded_where_their_upper_bytes_are_few() -> None:
    bits = np.full((32, 300), 0x3F80, np.uint16)
    bits[17, 256 : 256 + 16] = np.arange(0x40, 0x50, dtype=np.uint16) << 8  # one upper byte more than codes
    bits[18, :11] = np.arange(0x50, 0x5B, dtype=np.uint16) << 8
    assert layout.is_codable(bits)
    packed = layout.pack_coded_bfloat16(bits)
    assert packed.nbytes == 2 * (2 * 64 + 300 // 4 * 96 + 96)
    np.testing.assert_array_equal(layout.unpack("coded_bf16", packed, 32, 300).values, bits)
    bits[0, :29] = np.arange(0x40, 0x5D, dtype=np.uint16) << 8
    assert not layout.is_codable(bits)
    with pytest.raises(ValueError, match="14 of 16 × 256 weights have an upper byte without a code"):
        layout.pack_coded_bfloat16(bits)
    assert not layout.is_codable(bits[:, :8])  # a header a span is no gain


def test_rows_past_the_end_of_a_panel_are_zero() -> None:
    assert (
        layout.unpack("bf16", layout.pack_bfloat16(np.ones((17, 3), np.uint16)), 32, 4).values.sum() == 17 * 3
    )


@pytest.mark.parametrize(
    ("name", "rows", "columns", "message"),
    [
        ("int4_g32", 16, 33, "33 columns are not whole groups of 32"),
        ("int8_g32", 16, 48, "48 columns are not whole groups of 32"),
        ("int4_g128_min", 16, 64, "64 columns are not whole groups of 128"),
        ("f32", 0, 64, "a matrix of 0 × 64 has no weights"),
        ("int4_g8", 16, 64, "'int4_g8' is not a weight format"),
        ("int8_g0_min", 16, 64, "'int8_g0_min' is not a weight format"),
    ],
)
def test_a_shape_that_cannot_be_packed_is_refused(name: str, rows: int, columns: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout.packed_bytes(name, rows, columns)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    codes, scales = np.zeros((16, 64), np.uint8), np.ones((16, 2), np.float16)
    with pytest.raises(ValueError, match="int4 codes are 0 to 15, not 16"):
        layout.pack_int4(codes + np.uint8(16), scales)
    with pytest.raises(ValueError, match=r"minimums is float16 \(16, 1\), not float16 \(16, 2\)"):
        layout.pack_int4(codes, scales, scales[:, :1])
    with pytest.raises(ValueError, match="groups hold 16, 32, 64 or 128 weights, not 64 / 8"):
        layout.pack_int4(codes, np.ones((16, 8), np.float16))
    with pytest.raises(ValueError, match="groups hold 16, 32, 64 or 128 weights, not 33 / 1"):
        layout.pack_int4(np.zeros((16, 33), np.uint8), np.ones((16, 1), np.float16))
    with pytest.raises(ValueError, match="groups hold 16, 32, 64 or 128 weights, not 64 / 3"):
        layout.pack_int8(codes.view(np.int8), np.ones((16, 3), np.float16))
    with pytest.raises(ValueError, match=r"scales is float16 \(8, 2\), not float16 \(16, 2\)"):
        layout.pack_int8(codes.view(np.int8), scales[:8])
    with pytest.raises(ValueError, match=r"minimums is float16 \(16, 2\), not float32 \(16, 2\)"):
        layout.pack_int8(codes.view(np.int8), scales.astype(np.float32), scales)
    with pytest.raises(ValueError, match="scales is float16"):
        layout.pack_int8_rows(codes.view(np.int8), np.ones(16, np.float16))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits is float32"):
        layout.pack_bfloat16(np.zeros((16, 2), np.float32))
    with pytest.raises(ValueError, match="packed is uint8"):
        layout.unpack("f32", np.zeros(4, np.uint8), 1, 1)


@pytest.mark.parametrize(
    ("name", "cpp_type"),
    [
        ("f32", "F32"),
        ("bf16", "BF16"),
        ("coded_bf16", "CodedBF16"),
        ("int8_g0", "Int8<0>"),
        ("int4_g64_min", "Int4<64, true>"),
        ("int8_g16_f32", "Int8<16, false, float>"),
        ("int4_g32_min_i8", "Int4<32, true, int8_t>"),
    ],
)
def test_a_format_names_its_cpp_type(name: str, cpp_type: str) -> None:
    assert layout.parse_format(name).cpp_type == cpp_type
