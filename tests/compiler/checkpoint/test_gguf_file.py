import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.errors import CheckpointError

WriteGguf = Callable[..., Path]
HEADER = struct.Struct("<4sIQQ")


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf_bytes(
    *, magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, values: int = 0, body: bytes = b""
) -> bytes:
    return HEADER.pack(magic, version, tensors, values) + body


def tensor(name: bytes = b"a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


UINT32, STRING, ARRAY = (struct.pack("<I", kind) for kind in (4, 8, 9))
BAD = {
    "empty": b"",
    "magic": gguf_bytes(magic=b"GGML"),
    "version": gguf_bytes(version=1),
    "big-endian": gguf_bytes(version=3 << 24),
    "tensor count": gguf_bytes(tensors=2**63),
    "value count": gguf_bytes(values=2**40),
    "key length": gguf_bytes(values=1, body=struct.pack("<Q", 2**62) + bytes(64)),
    "key not UTF-8": gguf_bytes(values=1, body=string(b"\xff\xfe") + UINT32 + bytes(4)),
    "value type": gguf_bytes(values=1, body=string(b"k") + struct.pack("<I", 77) + bytes(8)),
    "string length": gguf_bytes(values=1, body=string(b"k") + STRING + struct.pack("<Q", 2**63) + bytes(64)),
    "array length": gguf_bytes(
        values=1, body=string(b"k") + ARRAY + UINT32 + struct.pack("<Q", 2**61) + bytes(64)
    ),
    "array of arrays": gguf_bytes(
        values=1, body=string(b"k") + ARRAY + ARRAY + struct.pack("<Q", 1) + bytes(64)
    ),
    "same key twice": gguf_bytes(values=2, body=2 * (string(b"k") + UINT32 + bytes(4))),
    "axes": gguf_bytes(tensors=1, body=tensor(shape=(1,) * 5) + bytes(256)),
    "no axes": gguf_bytes(tensors=1, body=tensor(shape=()) + bytes(256)),
    "axis of 0": gguf_bytes(tensors=1, body=tensor(shape=(32, 0)) + bytes(256)),
    "size overflows": gguf_bytes(tensors=1, body=tensor(shape=(2**32, 2**32, 2**32)) + bytes(256)),
    "half a block": gguf_bytes(tensors=1, body=tensor(shape=(33,), kind=3) + bytes(256)),
    "tensor type": gguf_bytes(tensors=1, body=tensor(kind=4) + bytes(256)),
    "removed type": gguf_bytes(tensors=1, body=tensor(kind=31) + bytes(256)),
    "offset": gguf_bytes(tensors=1, body=tensor(offset=2**40) + bytes(256)),
    "unaligned": gguf_bytes(tensors=1, body=tensor(offset=4) + bytes(256)),
    "same tensor twice": gguf_bytes(tensors=2, body=2 * tensor() + bytes(512)),
    "alignment": gguf_bytes(values=1, body=string(b"general.alignment") + UINT32 + struct.pack("<I", 24)),
    "alignment 0": gguf_bytes(values=1, body=string(b"general.alignment") + UINT32 + bytes(4)),
    "alignment text": gguf_bytes(values=1, body=string(b"general.alignment") + STRING + string(b"32")),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"bad\.gguf: (not a whole GGUF file|cannot be read)") as error:
        GGUFFile(path)
    assert "\n" not in str(error.value)


def test_reads_what_was_written(write_gguf: WriteGguf) -> None:
    metadata: dict[str, Any] = {
        "test.bool": True,
        "test.int": 7,
        "test.float": 0.5,
        "test.text": "größer\n",
        "test.ints": [1, -2, 3],
        "test.texts": ["a", "", "ß"],
    }
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    file = GGUFFile(write_gguf(metadata, {"a": values, "b": values[0]}))
    assert {key: file.metadata[key] for key in metadata} == metadata
    assert file.metadata["general.architecture"] == "llama"
    assert file.tensors["a"].shape == (3, 4)
    assert np.array_equal(file.raw("a").view(np.float32), values)
    assert np.array_equal(file.raw("b").view(np.float32), values[:1])


def test_truncated_anywhere_is_refused(write_gguf: WriteGguf) -> None:
    path = write_gguf({}, {"a": np.zeros((4, 32), np.float32)})
    data = path.read_bytes()
    end = max(tensor.offset + tensor.num_bytes for tensor in GGUFFile(path).tensors.values())
    for size in {*range(0, end, 97), 1, 8, 23, end - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            GGUFFile(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_bytes_never_raise_anything_else(write_gguf: WriteGguf, data: st.DataObject) -> None:
    path = write_gguf({"test.ints": [1, 2, 3]}, {"a": np.zeros((4, 32), np.float32)}, vocabulary={})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        file = GGUFFile(path)
        for name in file.tensors:
            file.raw(name)
