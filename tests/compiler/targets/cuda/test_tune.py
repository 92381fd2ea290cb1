"""The tuner: what it leaves out, what it chooses, and what becomes of that without a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.compiler.families import save_model

import pagedc
from pagedc.compiler.errors import OptionError, ToolchainError
from pagedc.compiler.report import load_tuning
from pagedc.compiler.targets.cuda.candidates import SPACES, candidates_of, config_of, default_of
from pagedc.compiler.targets.cuda.configs import triton_module
from pagedc.compiler.targets.cuda.cost import CHIPS, Resources, expected, predict, unfit, work_of
from pagedc.compiler.targets.cuda.launch_table import Kernel
from pagedc.compiler.targets.cuda.points import Point, shape_of, tier_of
from pagedc.compiler.targets.cuda.trials import Trial, chosen, judge, pruned, shortlist, trials_of
from pagedc.compiler.targets.cuda.tuned_rows import configs_of, default_row
from pagedc.compiler.tuning import TunedKernel, Tuning, dump_tuning
from pagedc.runtime.package import Package

CHIP = CHIPS["sm_90"]
ROOT = Path(__file__).parents[4]


def linear(n: int = 4096, k: int = 4096, weight_format: str = "bf16") -> Any:
    return triton_module("linear").LinearSpec(n=n, k=k, weight_format=weight_format)


def attention() -> Any:
    return triton_module("attention").AttentionSpec(
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        block_size=16,
        kv_dtype="bfloat16",
        scale=1.0,
    )


def point(kernel: str, spec: Any, size: int) -> Point:
    return Point(kernel, spec, tier_of(size), size, size, Kernel("unused", "T", lambda _, __: []))


def family(kernel: str, spec: Any, *sizes: int) -> list[list[Trial]]:
    return [trials_of(point(kernel, spec, size), CHIP, 4096) for size in sizes]


@pytest.mark.parametrize("mode", ["quick", "full"])
@pytest.mark.parametrize("kernel", ["linear", "attention_decode", "attention_prefill"])
def test_the_shortlist_is_short_and_has_the_default(kernel: str, mode: Any) -> None:
    found = family(kernel, linear() if kernel == "linear" else attention(), 1, 16, 256)
    shortlist(found, mode)
    num_shared, num_free = SPACES[kernel].full if mode == "full" else SPACES[kernel].quick
    for trials in found:
        kept = [trial for trial in trials if trial.reason is None]
        assert trials[0] in kept
        assert 1 < len(kept) <= num_shared * num_free
        assert len({trial.candidate.shared for trial in kept}) <= num_shared
    assert set(pruned(found[0])) <= {"predicted slower", "shared memory", "registers"}


def test_candidates_are_each_another_and_a_linears_slices_are_shared() -> None:
    for spec in (linear(), linear(96, 200), linear(weight_format="int4_g32_min")):
        found = candidates_of("linear", spec, 16)
        assert found[0] == default_of("linear", spec, 16)
        assert len({tuple(each.constants.items()) for each in found}) == len(found)
        assert {each.config for each in found} >= {config_of(each.constants) for each in found}
        assert {dict(each.shared).keys() == {"SPLIT_K"} for each in found} == {True}


def test_the_cost_model_knows_what_cannot_be_fast() -> None:
    spec = linear()
    found = {tuple(each.constants.items()): each for each in candidates_of("linear", spec, 4096)}.values()
    times = {}
    for each in found:
        work = work_of("linear", each, 4096, 0)
        times[
            each.config["BLOCK_N"], each.config["BLOCK_T"], each.config.num_stages, each.config.num_warps
        ] = predict(work, each, expected(work, each), CHIP)
    assert times[64, 64, 2, 4] > 2 * min(times.values())  # small tiles read too often
    # No time is below what the bytes or the operations alone take.
    assert min(times.values()) > 1e6 * 2 * 4096**3 / CHIP.flops
    decode = candidates_of("attention_decode", attention(), 64)[0]
    work = work_of("attention_decode", decode, 64, 8192)
    assert predict(work, decode, expected(work, decode), CHIP) > 1e6 * work.num_bytes / CHIP.bandwidth


def test_what_does_not_fit_is_left_out_with_its_reason() -> None:
    candidate = default_of("linear", linear(), 16)
    assert unfit(Resources(128, 0, 300 << 10), candidate, CHIP) == "shared memory"
    assert unfit(Resources(128, 8, 1 << 10), candidate, CHIP) == "spills"
    eight = config_of(candidate.constants | {"WARPS": 32})
    wide = type(candidate)(candidate.spec, eight, candidate.shared)
    assert unfit(Resources(128, 0, 1 << 10), wide, CHIP) == "registers"
    trials = trials_of(point("linear", linear(), 16), CHIP, 0)[:3]
    for trial in trials:
        trial.launches = [{"binary": 0}]
    judge(trials[0], [{"registers": 64, "spilled": 40, "shared": 0}], CHIP)
    judge(trials[1], [{"registers": 64, "spilled": 40, "shared": 0}], CHIP)
    judge(trials[2], [{"failed": "does not compile"}], CHIP)
    assert [trial.reason for trial in trials] == [None, "spills", "does not compile"]


def test_the_fastest_is_chosen_and_what_decides_sums_is_one_choice() -> None:
    found = family("linear", linear(), 1, 256)
    for trials in found:
        for trial in trials:
            trial.samples = [10.0]
    slow_alone = next(t for t in found[0] if dict(t.candidate.shared)["SPLIT_K"] == 1)
    slow_alone.samples = [1.0]  # at one token the fastest by far, at 256 all of its kind are slow
    for trial in found[1]:
        if dict(trial.candidate.shared)["SPLIT_K"] == 1:
            trial.samples = [500.0]
    best = next(t for t in found[1][1:] if t.candidate.shared == found[1][0].candidate.shared)
    best.samples = [5.0, 4.0, 30.0]
    picked = chosen(found, 1.02)
    assert picked[1] is best
    assert picked[0].candidate.shared == best.candidate.shared
    best.samples = [9.9]
    assert chosen(found, 1.02) == [found[0][0], found[1][0]]  # a gain of 1 % keeps the default


def row(kernel: str, spec: Any, size: int, **constants: int) -> TunedKernel:
    known = default_row(point(kernel, spec, size))
    changed = known.constants | constants
    return TunedKernel(kernel, known.shape, 3, "", constants=changed)


def test_rows_become_configs_and_other_sizes_keep_the_default() -> None:
    spec = linear()
    points = [point("linear", spec, size) for size in (1, 16)]
    rows = [row("linear", spec, size, BLOCK_K=32, SPLIT_K=3) for size in (1, 16)]
    configs = configs_of(points, rows)
    cut = configs.linear_spec(4096, 4096, "bf16")
    assert cut.split_k == 3
    assert configs.of("linear", cut, 9)["BLOCK_K"] == 32
    assert configs.of("linear", cut, 64) == triton_module("linear").defaults(cut, 64)
    assert configs_of(points, []).linear_spec(4096, 4096, "bf16") == spec


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ((1,), {"WARPS": 0}, "WARPS = 0"),
        ((1,), {"BLOCK_K": 1 << 20}, "BLOCK_K = 1048576"),
        ((1,), {"import os": 1}, "has other constants than BLOCK_N"),
        ((1, 16), {}, "cuts K otherwise"),
    ],
)
def test_rows_that_are_none_are_refused(
    sizes: tuple[int, ...], changes: dict[str, int], message: str
) -> None:
    rows = [row("linear", linear(), size, SPLIT_K=size, **changes) for size in sizes]
    with pytest.raises(OptionError, match=message):
        configs_of([point("linear", linear(), size) for size in sizes], rows)


def test_shapes_name_what_matters() -> None:
    assert shape_of(linear(), 16) == "T=16 N=4096 K=4096 bf16"
    assert shape_of(attention(), 1) == "T=1 KV=8 D=128 DV=128 bfloat16 H=32"
    assert [tier_of(size) for size in (1, 2, 16, 17, 64, 65)] == [1, 16, 16, 32, 64, 128]


# Whole compiles, on a driver library without a GPU: its clock is a function of grids and threads.

OPTIONS: dict[str, Any] = {"max_num_seqs": 1, "max_num_batched_tokens": 2, "max_model_len": 32, "threads": 1}
WORDS = [
    "--dtype",
    "bfloat16",
    *(w for k, v in OPTIONS.items() for w in (f"--{k.replace('_', '-')}", str(v))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tune")
    # Five linears of two shapes: each shape has its candidates.
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    save_model("llama", directory / "model", **sizes)
    source = ROOT / "tests/runtime/executors/fake_cuda.cpp"
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-Wall", "-o", directory / "libcuda.so.1", source]
    subprocess.run(command, check=True)
    return directory


def run(
    folder: Path, package: str, *words: str, seconds: float = 600, **own: str
) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_CUDA_MAJOR": "9",
        "PAGEDC_CACHE": str(folder / "cache"),
    }
    script = [sys.executable, Path(__file__).with_name("tune_on_fake_cuda.py"), str(seconds)]
    command = [*script, "compile", folder / "model", "-o", folder / package, *WORDS, *words]
    return subprocess.run(
        command, env=environment | own, capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Path:
    done = run(folder, "tuned.pagedc", "--target", "cuda", "--tune", "quick")
    assert done.returncode == 0, done.stderr
    assert "Fake GPU" in done.stdout
    return folder / "tuned.pagedc"


def test_a_gpu_times_and_chooses(tuned: Path) -> None:
    tuning = load_tuning(tuned)
    assert (tuning.device, tuning.arch, tuning.mode) == ("Fake GPU", "sm_90", "quick")
    assert tuning.read_bandwidth == pytest.approx(4e12, rel=0.01)
    rows = {(each.kernel, each.shape.split()[0]): each for each in tuning.kernels}
    prefill = rows["attention_prefill", "T=16"]
    # The default has 8 warps: on this clock, 1 µs more than 4 of the same tile.
    assert prefill.constants["WARPS"] == 4
    assert prefill.speedup is not None
    assert prefill.speedup > 1.5
    assert prefill.microseconds == pytest.approx(1.06, abs=0.03)
    assert 1 < prefill.candidates <= 6
    assert prefill.pruned["predicted slower"] > 30
    table = rows["embedding", "T=1"]
    assert (table.constants["WARPS"], table.speedup) == (4, 1.0)  # nothing is faster: the default stays
    assert table.rate is not None
    assert table.limit == "bandwidth"
    page = (tuned / "report.html").read_text()
    assert "predicted slower" in page
    assert "TB/s" in page
    Package.open(tuned, verify=True)


def test_again_nothing_is_timed_and_without_a_gpu_a_file_gives_the_same_bytes(
    folder: Path, tuned: Path
) -> None:
    # With no seconds for timing: what is remembered needs none.
    again = run(folder, "again.pagedc", "--target", "cuda", "--tune", "quick", seconds=0)
    assert again.returncode == 0, again.stderr
    assert "as Fake GPU timed them before" in again.stderr
    file = folder / "kept.json"
    file.write_bytes((tuned / "tuning.json").read_bytes())
    pagedc.compile(
        folder / "model",
        folder / "file.pagedc",
        dtype="bfloat16",
        target="cuda:sm_90",
        tuning=file,
        **OPTIONS,
    )
    manifests = [Package.open(folder / f"{name}.pagedc").manifest for name in ("tuned", "again", "file")]
    assert manifests[0] == manifests[1] == manifests[2]


def test_the_budget_ends_it_and_a_kernel_that_fails_is_left_out(folder: Path, tuned: Path) -> None:
    own = {
        "FAKE_CUDA_BROKEN": "attention_prefill_kernel",
        "FAKE_CUDA_SLEEP": "60",  # ms, six times a candidate: the second still fits, and all together nowhere
        "PAGEDC_CACHE": str(folder / "2"),
    }
    done = run(folder, "short.pagedc", "--target", "cuda", "--tune", "quick", seconds=3, **own)
    assert done.returncode == 0, done.stderr
    rows = load_tuning(folder / "short.pagedc").kernels
    (reasons,) = [each.pruned for each in rows if each.kernel == "attention_prefill" and "T=16" in each.shape]
    assert reasons["fails on the GPU"] >= 1  # the default itself
    assert sum(each.candidates for each in rows) < sum(each.candidates for each in load_tuning(tuned).kernels)
    assert any("no time to time" in each.pruned for each in rows)


def test_another_chips_file_is_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    for tuning, whose in (
        (Tuning("NVIDIA A100", "full", arch="sm_80"), r"NVIDIA A100 \(sm_80\)"),
        (Tuning("Some CPU", "full", threads=4), "a CPU, Some CPU"),
    ):
        file.write_bytes(dump_tuning(tuning))
        with pytest.raises(OptionError, match=f"was timed on {whose}: a package for sm_90 cannot use it"):
            pagedc.compile(folder / "model", tmp_path / "p", target="cuda:sm_90", tuning=file, **OPTIONS)


def test_without_a_gpu_there_is_nothing_to_time_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="no GPU here to time kernels on: give --tuning FILE"):
        pagedc.compile(folder / "model", tmp_path / "p", target="cuda:sm_90", tune="quick", **OPTIONS)
    with pytest.raises(OptionError, match="interpreter has nothing to tune"):
        pagedc.compile(folder / "model", tmp_path / "p", target="cuda:interpreter", tune="quick", **OPTIONS)
