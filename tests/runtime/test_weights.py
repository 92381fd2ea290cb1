import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.packages import write_safetensors

from pagedc.runtime.errors import PackageError
from pagedc.runtime.manifest import Weight
from pagedc.runtime.weights import MappedWeights, parse_header

PATH = Path("model.safetensors")


def header_of(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **changes}


def test_metadata_and_padding_are_allowed() -> None:
    header = {
        "__metadata__": {"format": "pagedc"},
        "a": entry(0, 3),
        "_pad.0": entry(3, 64),
        "b": entry(64, 65),
    }
    tensors, start = parse_header(header_of(header) + bytes(65), PATH)
    assert sorted(tensors) == ["_pad.0", "a", "b"]
    assert tensors["b"].num_bytes == 1
    assert start == len(header_of(header))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are no safetensors file"),
        (b"1234567", "7 bytes are no safetensors file"),
        (b"\xff" * 8, "its header of 18446744073709551615 bytes does not fit"),
        ((100).to_bytes(8, "little") + b"{}", "its header of 100 bytes does not fit"),
        ((2).to_bytes(8, "little") + b"{]", "its header is not safetensors'"),
        (header_of([]), "its header is not safetensors'"),
        (header_of({"a": {"dtype": "U8"}}), "its header is not safetensors'"),
        (
            header_of({"a": entry(0, 8)}) + bytes(7),
            "tensor a lies at 0 to 8, outside the file's 7 bytes of data",
        ),
        (header_of({"a": entry(-8, 0)}), "tensor a lies at -8 to 0"),
        (header_of({"a": entry(5, 4, shape=[0])}) + bytes(9), "tensor a lies at 5 to 4"),
        (
            header_of({"a": entry(0, 4), "b": entry(3, 8)}) + bytes(8),
            "tensor b begins at 3, inside the tensor before",
        ),
        (header_of({"a": entry(0, 4, dtype="Q7")}) + bytes(4), "tensor a has the unknown dtype Q7"),
        (header_of({"a": entry(0, 4, shape=[5])}) + bytes(4), r"tensor a has 4 bytes, not those of U8 \[5\]"),
        (header_of({"a": entry(0, 4, shape=[-2, -2])}) + bytes(4), "tensor a has 4 bytes"),
        (header_of({"a": entry(0, 4, shape=[2**40, 2**40])}) + bytes(4), "tensor a has 4 bytes"),
    ],
)
def test_a_broken_header_is_named(data: bytes, message: str) -> None:
    with pytest.raises(PackageError, match=message) as caught:
        parse_header(data, PATH)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_parse_or_are_refused(data: bytes, header_len: int) -> None:
    for candidate in (data, header_len.to_bytes(8, "little") + data):
        try:
            parse_header(candidate, PATH)
        except PackageError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_tensor_that_is_used_must_be_aligned(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "w", {"_pad.0": entry(0, 8), "a": entry(8, 16)}, bytes(16))
    with pytest.raises(PackageError, match="tensor a begins at byte 200, not a multiple of 64"):
        MappedWeights(tmp_path, [Weight("a", "w", "raw", [8])])


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"")
    with pytest.raises(PackageError, match="cannot be mapped"):
        MappedWeights(tmp_path, [Weight("a", "w", "raw", [8])])
