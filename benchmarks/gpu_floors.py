"""The figures that have a floor, each beside it: what `benchmarks.gpu` prints last."""

from collections.abc import Callable
from typing import Any, NamedTuple

Figures = dict[str, Any]
SMALL, LARGE = "llama-3.2-1b", "llama-3.1-8b"


class Floor(NamedTuple):
    """One figure, on an H200. A share or a ratio is to be at least `floor`; seconds and counts at most."""

    name: str
    unit: str  # "%", "×", "s" or ""
    floor: float
    goal: float
    value: Callable[[Figures], float]  # KeyError, TypeError or StopIteration where it was not measured

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.unit in ("s", "")


def row(figures: Figures, model: str, what: str) -> dict[str, Any]:
    """A row of an engine's figures: the faster of the package with defaults and of the tuned one."""
    engines = [figures[model].get(name, {}).get("rows", []) for name in ("engine", "tuned")]
    rows = [row for rows in engines for row in rows if row["what"] == what]
    return min(rows, key=lambda each: each["step_s"]) if rows else next(iter(rows))


def bandwidth_share(model: str, what: str) -> Callable[[Figures], float]:
    """Percent of the measured copy bandwidth."""

    def share(figures: Figures) -> float:
        found = row(figures, model, what)
        return 100 * found["bytes"] / found["step_s"] / figures["limits"]["copy_bytes_per_s"]

    return share


def matmul_share(model: str, what: str) -> Callable[[Figures], float]:
    """Percent of the measured rate of matrix products."""

    def share(figures: Figures) -> float:
        found = row(figures, model, what)
        return 100 * found["flops"] / found["step_s"] / figures["limits"]["matmul_flops_per_s"]

    return share


def attention_share(figures: Figures) -> float:
    """Percent of the measured copy bandwidth of the decode attention kernel alone."""
    found = figures["kernels"]["attention_decode_64x8192"]
    return 100 * found["bytes"] / found["seconds"] / figures["limits"]["copy_bytes_per_s"]


def against_transformers(model: str, what: str, theirs: str) -> Callable[[Figures], float]:
    """How many times as fast as transformers with torch.compile."""
    return lambda figures: figures[model]["transformers"][theirs] / row(figures, model, what)["step_s"]


def _shares() -> list[Floor]:
    decode, prefill = "decode 1 x 1024", "prefill 4096"
    return [
        Floor(f"{decode}, 8B: share of copy bandwidth", "%", 75, 90, bandwidth_share(LARGE, decode)),
        Floor(f"{decode}, 1B: share of copy bandwidth", "%", 60, 85, bandwidth_share(SMALL, decode)),
        Floor("decode attention, 64 x 8192: share of copy bandwidth", "%", 80, 92, attention_share),
        Floor(f"{prefill}, 8B: share of matmul rate", "%", 65, 85, matmul_share(LARGE, prefill)),
    ]


def _ratios() -> list[Floor]:
    parts = {"decode 1 x 1024": "decode_step_s", "prefill 4096": "prefill_s"}
    return [
        Floor(f"{what}, {name}: transformers compiled", "×", 2, 4, against_transformers(model, what, theirs))
        for model, name in ((SMALL, "1B"), (LARGE, "8B"))
        for what, theirs in parts.items()
    ]


def _boots() -> list[Floor]:
    def engine(model: str, figure: str) -> Callable[[Figures], float]:
        return lambda figures: figures[model]["engine"][figure]

    return [
        Floor("boot to first token, 1B", "s", 3, 1.5, engine(SMALL, "first_token_s")),
        Floor("boot to first token, 8B", "s", 6, 3, engine(LARGE, "first_token_s")),
        Floor("kernels compiled at boot: compilers imported", "", 0, 0, engine(LARGE, "compilers_imported")),
    ]


FLOORS = (*_shares(), *_ratios(), *_boots())


def measured(figures: Figures) -> list[dict[str, Any]]:
    """Each floor with what was measured; value and reached are None where nothing was."""
    rows = []
    for floor in FLOORS:
        try:
            value: float | None = round(floor.value(figures), 3)
        except (KeyError, TypeError, StopIteration):
            value = None
        reached = None if value is None else (value <= floor.floor if floor.at_most else value >= floor.floor)
        rows.append(
            {
                "figure": floor.name,
                "unit": floor.unit,
                "floor": floor.floor,
                "goal": floor.goal,
                "value": value,
                "reached": reached,
            }
        )
    return rows


def print_floors(figures: Figures) -> None:
    """A line each."""
    print(f"{'figure':58} {'floor':>8} {'goal':>8} {'measured':>10}")
    for each in measured(figures):
        value = "–" if each["value"] is None else f"{each['value']:.4g} {each['unit']}"
        verdict = {None: "not measured", True: "reached", False: "MISSED"}[each["reached"]]
        floor, goal = (f"{each[name]:g} {each['unit']}" for name in ("floor", "goal"))
        print(f"{each['figure']:58} {floor:>8} {goal:>8} {value:>10}  {verdict}")
