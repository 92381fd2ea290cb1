"""Figures as a table for a person, and latency against load as a picture."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pagedc.runtime.errors import UsageError

PERCENTILES = ("mean", "median", "p90", "p99")
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}


def print_figures(what: str, figures: dict[str, Any]) -> None:
    """The table of one of the four benches."""
    show = {"latency": _latency, "throughput": _throughput, "serve": _serve, "startup": _startup}[what]
    show(Console(soft_wrap=True), figures)


def _latency(console: Console, figures: dict[str, Any]) -> None:
    peak = figures["peak"]
    limit = "no peak was timed at its compile" if peak is None else f"peak {peak / 1e9:.0f} GFLOP/s"
    table = _table(
        f"batch of one, {figures['threads']} threads, {limit}",
        "prompt",
        "TTFT ms",
        "prefill tok/s",
        "of peak",
        "TPOT ms",
        "decode tok/s",
        "of bandwidth",
        "GB/s read",
    )
    for row in figures["lengths"]:
        table.add_row(
            str(row["input_tokens"]),
            f"{row['ttft']['median'] * 1e3:.1f}",
            f"{row['prefill_tokens_per_second']:.0f}",
            "–" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}",
            f"{row['tpot']['median'] * 1e3:.2f}",
            f"{row['decode_tokens_per_second']:.1f}",
            f"{row['share_of_bandwidth']:.0%}",
            f"{row['read_bandwidth'] / 1e9:.1f}",
        )
    console.print(table)


def _throughput(console: Console, figures: dict[str, Any]) -> None:
    table = _table(
        f"{figures['requests']} requests offline, {figures['threads']} threads",
        "requests/s",
        "output tok/s",
        "all tok/s",
        "steps",
        "of bandwidth, one pass a step",
    )
    table.add_row(
        f"{figures['requests_per_second']:.2f}",
        f"{figures['output_tokens_per_second']:.0f}",
        f"{figures['total_tokens_per_second']:.0f}",
        str(figures["steps"]),
        f"{figures['share_of_bandwidth']:.0%} of {figures['read_bandwidth'] / 1e9:.1f} GB/s",
    )
    console.print(table)


def _serve(console: Console, figures: dict[str, Any]) -> None:
    for row in figures["loads"]:
        goodput = f", goodput {row['goodput']:.2f}/s" if "goodput" in row else ""
        failed = f", {row['failed']} failed ({row['first_error']})" if row["failed"] else ""
        table = _table(
            f"{_load(row)}: {row['requests_per_second']:.2f} requests/s, "
            f"{row['output_tokens_per_second']:.0f} output tok/s{goodput}{_steps(row)}{failed}",
            "ms",
            *PERCENTILES,
        )
        for name, label in LATENCIES.items():
            spread = row[name]
            cells = ("–" if spread is None else f"{spread[p] * 1e3:.1f}" for p in PERCENTILES)
            table.add_row(label, *cells)
        console.print(table)


def _steps(row: dict[str, Any]) -> str:
    if "steps" not in row:
        return ""
    limit = f"{row['share_of_bandwidth']:.0%} of {row['read_bandwidth'] / 1e9:.1f} GB/s"
    return f", {row['steps']} steps: {limit}, one pass a step"


def _startup(console: Console, figures: dict[str, Any]) -> None:
    title = (
        f"process start to …, at least {figures['python_seconds']:.3f} s for Python and "
        f"{figures['weights_seconds']:.3f} s for the weights at {figures['read_bandwidth'] / 1e9:.1f} GB/s"
    )
    table = _table(title, "page cache", "ready s", "first token s", "peak memory MB")
    for kind in ("cold", "warm"):
        row = figures[kind]
        table.add_row(
            kind,
            f"{row['ready']['median']:.2f}",
            f"{row['first_token']['median']:.2f}",
            f"{row['peak_memory']['median'] / 1e6:.0f}",
        )
    console.print(table)


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right")
    return table


def _load(row: dict[str, Any]) -> str:
    if row["rate"] is None:
        return f"{row['concurrency']} at a time"
    return f"{row['rate']:g} requests/s"


def check_plot() -> None:
    """Raises UsageError where nothing can draw."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'pagedc[bench]'")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """TTFT and TPOT, median and p99, against requests a second."""
    check_plot()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    rows = sorted(rows, key=lambda row: row["requests_per_second"])
    loads = [row["requests_per_second"] for row in rows]
    for axis, name in zip(axes, ("ttft", "tpot"), strict=True):
        for percentile in ("median", "p99"):
            values = [(row[name] or {}).get(percentile, float("nan")) * 1e3 for row in rows]
            axis.plot(loads, values, marker="o", label=percentile)
        axis.set(xlabel="requests a second", ylabel=f"{LATENCIES[name]}, ms", ylim=(0, None))
        axis.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be drawn: {error}") from None
    finally:
        pyplot.close(figure)
