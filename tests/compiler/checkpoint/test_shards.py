import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pagedc.compiler.checkpoint.shards import INDEX, SINGLE, Shards, read_json
from pagedc.compiler.errors import CheckpointError

TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def write_raw(directory: Path, header: bytes, data: bytes = bytes(16), length: int | None = None) -> None:
    size = struct.pack("<Q", len(header) if length is None else length)
    (directory / SINGLE).write_bytes(size + header + data)


def one_line(error: pytest.ExceptionInfo[CheckpointError]) -> None:
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"{}", 2**63),
        (b"{}", 10_000),
        (json.dumps({"a": TENSOR | {"data_offsets": [0, 2**40]}}).encode(), None),
        (json.dumps({"a": TENSOR | {"shape": [5]}}).encode(), None),
        (json.dumps({"a": TENSOR | {"shape": [2**62, 4]}}).encode(), None),
        (json.dumps({"a": TENSOR | {"dtype": "F7"}}).encode(), None),
        (json.dumps({"a": TENSOR, "b": TENSOR | {"data_offsets": [8, 24]}}).encode(), None),
        (json.dumps({"a": TENSOR | {"data_offsets": [-16, 0]}}).encode(), None),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, None),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, header: bytes, length: int | None) -> None:
    write_raw(tmp_path, header, length=length)
    with pytest.raises(CheckpointError, match="not a whole safetensors file") as error:
        Shards(tmp_path)
    one_line(error)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / SINGLE)
    data = (tmp_path / SINGLE).read_bytes()
    for size in (0, 4, 8, 20, len(data) - 1):
        (tmp_path / SINGLE).write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            Shards(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"1 of 2 shards missing, first two\.safetensors"):
        Shards(tmp_path)


def test_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "one.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"b": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"one\.safetensors: holds no b"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "one.bin", 3, ""]
)
def test_index_may_not_leave_the_directory(tmp_path: Path, name: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="not the name of a safetensors file"):
        Shards(tmp_path)


def test_same_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("one.safetensors", "two.safetensors"):
        save_file({"a": torch.zeros(4), name: torch.zeros(4)}, tmp_path / name)
    index = {"weight_map": {"one.safetensors": "one.safetensors", "two.safetensors": "two.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a is already in another file"):
        Shards(tmp_path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(CheckpointError, match="convert them to safetensors") as error:
        Shards(tmp_path)
    one_line(error)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model\.safetensors in it"):
        Shards(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_bad_json_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        read_json(tmp_path / "x.json")
    one_line(error)
