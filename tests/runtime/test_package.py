import ctypes
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.runtime.packages import WEIGHTS, make_package, seal

from pagedc.runtime.errors import PackageError
from pagedc.runtime.machine import cpu_features
from pagedc.runtime.manifest import Target, Weight, manifest_path
from pagedc.runtime.package import Package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path / "tiny.pagedc")


def edit_manifest(package: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = manifest_path(package)
    manifest = json.loads(path.read_bytes())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def refusal(package: Path, *, verify: bool = False) -> str:
    with pytest.raises(PackageError) as caught:
        Package.open(package, verify=verify)
    message = str(caught.value)
    assert "\n" not in message
    assert str(package) in message
    return message


def test_a_whole_package_opens(package: Path) -> None:
    opened = Package.open(package, verify=True)
    assert opened.manifest.model.name == "tiny"
    assert opened.program_path.read_bytes() == b"no library"
    assert (opened.tokenizer_path / "tokenizer.json").exists()


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "no such directory" in refusal(tmp_path / "loop")
    assert "File name too long" in refusal(tmp_path / ("a" * 300))


def test_it_may_be_moved_and_linked_to(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere"
    package.rename(moved)
    link = tmp_path / "link"
    link.symlink_to(moved)
    assert Package.open(link).path == moved
    monkeypatch.chdir(tmp_path)
    assert Package.open("elsewhere").path == moved


def test_weights_are_mapped_in_the_order_of_the_manifest(package: Path) -> None:
    weights = Package.open(package).map_weights()
    norm, embedding = weights.addresses
    assert ctypes.string_at(norm, 16) == WEIGHTS["norm"].tobytes()
    assert ctypes.string_at(embedding, 256) == WEIGHTS["embedding"].tobytes()
    assert norm % 64 == embedding % 64 == 0
    weights.close()
    weights.close()


def test_no_package_at_all(tmp_path: Path) -> None:
    assert "no such directory" in refusal(tmp_path / "missing")
    assert "not a package" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff\xfe"])
def test_a_manifest_that_is_none(package: Path, content: bytes) -> None:
    manifest_path(package).write_bytes(content)
    assert "not a manifest" in refusal(package)


def test_an_unknown_field_is_named(package: Path) -> None:
    edit_manifest(package, lambda manifest: manifest.update(colour="red"))
    assert "colour" in refusal(package)


def test_another_schema_is_told_before_its_fields_are_looked_at(package: Path) -> None:
    edit_manifest(package, lambda manifest: manifest.update(schema_version=2, colour="red"))
    assert "schema version 2, but this pagedc reads version 1; upgrade pagedc" in refusal(package)
    edit_manifest(package, lambda manifest: manifest.update(schema_version=0))
    assert "compile the model again" in refusal(package)
    edit_manifest(package, lambda manifest: manifest.update(schema_version=1, abi_version=7))
    assert "ABI version 7" in refusal(package)


def test_another_machine(package: Path) -> None:
    seal(package, target=Target("cpu", "riscv64", "native", [], ""))
    assert "compiled for riscv64" in refusal(package)
    machine = os.uname().machine
    seal(package, target=Target("cpu", machine, "x86-64-v9", ["avx9000", *sorted(cpu_features())], ""))
    assert "compiled for x86-64-v9, but this CPU lacks avx9000" in refusal(package)


def test_a_missing_file(package: Path) -> None:
    (package / "tokenizer" / "tokenizer.json").unlink()
    assert "tokenizer.json: missing" in refusal(package)


def test_a_file_cut_short(package: Path) -> None:
    path = package / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "bytes, but its manifest says" in refusal(package)


def test_an_edited_file(package: Path) -> None:
    (package / "kernels" / "model.so").write_bytes(b"on library")
    assert "model.so: its content is not what was compiled" in refusal(package)


def test_edited_weights_are_found_where_asked_for(package: Path) -> None:
    path = package / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    Package.open(package)
    assert "its content is not what was compiled" in refusal(package, verify=True)


def test_an_extra_file(package: Path) -> None:
    (package / "kernels" / "libc.so").write_bytes(b"")
    assert "holds kernels/libc.so, not in its manifest" in refusal(package)
    (package / "notes.txt").write_bytes(b"")
    assert "and 1 more" in refusal(package)


def test_an_extra_link_to_a_directory(package: Path, tmp_path: Path) -> None:
    (package / "more").symlink_to(tmp_path)
    assert "holds more, not in its manifest" in refusal(package)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "kernels/../../secret", "kernels//model.so", ".", "a\0b"]
)
def test_a_name_that_leads_out(package: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"")
    entry = {"size": 0, "sha256": ""}
    edit_manifest(package, lambda manifest: manifest["files"].update({name: entry}))
    assert "not inside it" in refusal(package)


def test_a_link_that_leads_out(package: Path, tmp_path: Path) -> None:
    path = package / "kernels" / "model.so"
    shutil.copy(path, tmp_path / "model.so")
    path.unlink()
    path.symlink_to(tmp_path / "model.so")
    assert "a link that leads out" in refusal(package)


def test_a_loop_of_links(package: Path) -> None:
    path = package / "kernels" / "model.so"
    path.unlink()
    path.symlink_to(path)
    assert "model.so" in refusal(package)


def test_a_program_or_weights_that_are_not_listed(package: Path) -> None:
    edit_manifest(package, lambda manifest: manifest.update(program="/lib/libc.so.6"))
    assert "names /lib/libc.so.6 but does not list it" in refusal(package)


def mapping_refusal(package: Path) -> str:
    with pytest.raises(PackageError) as caught:
        Package.open(package).map_weights()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_the_file_lacks(package: Path) -> None:
    seal(package, weights=[Weight("bias", "weights/model.safetensors", "f32", [4])])
    assert "lacks tensor bias" in mapping_refusal(package)


def test_weights_too_small_for_their_shape(package: Path) -> None:
    seal(package, weights=[Weight("norm", "weights/model.safetensors", "f32", [400])])
    assert "tensor norm has 16 bytes, too few for f32 of shape [400]" in mapping_refusal(package)


def test_every_byte_of_the_manifest_matters_or_not_but_never_a_traceback(package: Path) -> None:
    data = manifest_path(package).read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 200):
        broken = bytearray(data)
        broken[position] ^= int(rng.integers(1, 256))
        manifest_path(package).write_bytes(broken)
        try:
            Package.open(package).map_weights().close()
        except PackageError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_the_manifest_in_memory_is_the_one_on_disk(package: Path) -> None:
    assert msgspec.json.encode(Package.open(package).manifest.model.eos_token_ids) == b"[0]"
