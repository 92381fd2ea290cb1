"""Where a program asks for a config: each kernel with its spec, at each size class of a step.

A size class (tier) is 1, or a power of two of at least 16 and all sizes down to the next; its largest size
that occurs stands for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from pagedc.compiler.targets.cuda.candidates import base_of
from pagedc.compiler.targets.cuda.configs import Configs, tier_of
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.launch_table import Arguments, Kernel
from pagedc.compiler.tuning import Mode

QUICK_TIERS = (1, 16, 64, 256)  # and the largest; between them the default stays
LONG = 256  # tokens of a prefill
WORDS = {
    "num_heads": "H",
    "num_kv_heads": "KV",
    "head_dim": "D",
    "v_head_dim": "DV",
    "n": "N",
    "k": "K",
    "experts": "E",
    "vocab_size": "V",
}
BARE = ("weight_format", "kv_dtype")  # values that name themselves
UNSPOKEN = ("split_k", "scale", "block_size", "split_tokens", "max_logprobs")  # chosen here, or of no matter


@dataclass(frozen=True, slots=True)
class Point:
    """A kernel of kernels/triton with one spec, at one size class."""

    kernel: str  # "linear"
    spec: Any
    tier: int
    size: int  # that its config is asked for, at most `tier`
    bucket: int  # of the program's kernel, that leads to `size`
    used_by: Kernel

    @property
    def shape(self) -> str:
        """As a row of tuning.json names it."""
        return shape_of(self.spec, self.tier)


def shape_of(spec: Any, tier: int) -> str:
    """`T=16 N=4096 K=4096 bf16`: everything that the tuner does not choose, but for a spec's defaults."""
    words = [f"T={tier}"]
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name in UNSPOKEN or value == field.default:
            continue
        words.append(str(value) if field.name in BARE else f"{WORDS.get(field.name, field.name)}={value:g}")
    return " ".join(words)


class Recorder(Configs):
    """Gives defaults, and keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, Any, int]] = []

    def of(self, kernel: str, spec: Any, bucket: int) -> Any:
        """The default."""
        self.asked.append((kernel, base_of(spec), bucket))
        return super().of(kernel, spec, bucket)


def points_of(kernels: Kernels, buckets: dict[str, list[int]]) -> list[Point]:
    """All of a program, by kernel, spec and size class. `kernels` was made with a Recorder."""
    recorder = kernels.configs
    if not isinstance(recorder, Recorder):
        raise TypeError("the kernels' configs do not record")
    found: dict[tuple[str, Any, int], Point] = {}
    users: dict[tuple[str, Any], str] = {}
    for kernel in kernels.kernels.values():
        for bucket in _largest_of_tiers(buckets[kernel.dimension]):
            recorder.asked.clear()
            kernel.make(Arguments(), bucket)
            for name, spec, size in recorder.asked:
                if users.setdefault((name, spec), kernel.name) == kernel.name:
                    tier = tier_of(size)
                    found[name, spec, tier] = Point(name, spec, tier, size, bucket, kernel)
    return sorted(found.values(), key=lambda point: (point.kernel, shape_of(point.spec, 0), point.tier))


def families(points: Iterable[Point]) -> list[list[Point]]:
    """The points of each kernel and spec."""
    found: dict[tuple[str, Any], list[Point]] = {}
    for point in points:
        found.setdefault((point.kernel, point.spec), []).append(point)
    return list(found.values())


def is_tunable(spec: Any) -> bool:
    """Float32 is for checking; its sums, on no tensor core, may depend on more than what is shared."""
    return getattr(spec, "weight_format", "") != "f32" and getattr(spec, "kv_dtype", "") != "float32"


def timed_points(family: list[Point], mode: Mode) -> list[Point]:
    """Those that are timed. A prefill's config is one for all sizes, so the long ones decide it alone."""
    if family[0].kernel == "attention_prefill":
        family = [point for point in family if point.tier >= LONG] or family[-1:]
    if mode == "full":
        return family
    return [point for point in family if point.tier in QUICK_TIERS or point is family[-1]]


def _largest_of_tiers(buckets: list[int]) -> list[int]:
    return list({tier_of(bucket): bucket for bucket in buckets}.values())
