"""What the server counts, under the names that dashboards of this field know, with the prefix `pagedc:`.

Counting is a bisection and an addition, as it happens for every token; prometheus-client is imported when
somebody first asks, and only formats.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pagedc.runtime.messages import EngineStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SHORT = (
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
)
_LONG = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
_TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))


class Histogram:
    """Counts per bucket; `bounds` are upper and inclusive, the last bucket is open."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of upper bound and count up to it, as Prometheus wants them."""
        pairs, count = [], 0
        for bound, own in zip([*self.bounds, float("inf")], self.counts, strict=True):
            count += own
            pairs.append(("+Inf" if bound == float("inf") else str(bound), float(count)))
        return pairs


class Metrics:
    """Everything that is counted in the server's process, and the engine's own counters beside it."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.time_to_first_token = Histogram(_LONG)
        self.inter_token_latency = Histogram(_SHORT)
        self.time_per_output_token = Histogram(_SHORT)
        self.e2e_request_latency = Histogram(_LONG)
        self.request_prompt_tokens = Histogram(_TOKENS)
        self.request_generation_tokens = Histogram(_TOKENS)
        self.finished: Counter[str] = Counter()  # sequences by finish_reason
        self.rejected: Counter[str] = Counter()  # requests by HTTP status
        self.boot_seconds: dict[str, float] = {}  # by phase
        self.num_connections = 0
        self.num_http_requests = 0  # generation requests that are open in the server

    def render(self, stats: EngineStats, num_restarts: int) -> tuple[bytes, str]:
        """The exposition of all of it and its content type."""
        from prometheus_client import CollectorRegistry, exposition

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self, stats, num_restarts))
        return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


class _Collector:
    def __init__(self, metrics: Metrics, stats: EngineStats, num_restarts: int) -> None:
        self._metrics = metrics
        self._stats = stats
        self._num_restarts = num_restarts

    def collect(self) -> "Iterator[Metric]":
        """The metric families, as prometheus-client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        metrics, stats = self._metrics, self._stats
        model = [metrics.model_name]
        histograms = (
            (
                "time_to_first_token_seconds",
                "From a request's arrival to its first token",
                metrics.time_to_first_token,
            ),
            (
                "inter_token_latency_seconds",
                "Between two deliveries of one sequence",
                metrics.inter_token_latency,
            ),
            (
                "time_per_output_token_seconds",
                "Mean per request after its first token",
                metrics.time_per_output_token,
            ),
            (
                "e2e_request_latency_seconds",
                "From a request's arrival to its end",
                metrics.e2e_request_latency,
            ),
            ("request_prompt_tokens", "Tokens of a prompt", metrics.request_prompt_tokens),
            ("request_generation_tokens", "Tokens of an answer", metrics.request_generation_tokens),
        )
        for name, text, histogram in histograms:
            histogram_family = HistogramMetricFamily(f"pagedc:{name}", text, labels=["model_name"])
            histogram_family.add_metric(model, histogram.cumulative(), histogram.total)
            yield histogram_family
        counters = (
            (
                "prompt_tokens",
                "Prompt tokens run, those found in the prefix cache not counted",
                stats.num_prompt_tokens,
            ),
            ("generation_tokens", "Tokens generated", stats.num_generation_tokens),
            (
                "num_preemptions",
                "Sequences that gave their blocks up and were run again",
                stats.num_preemptions,
            ),
            ("prefix_cache_queries", "Tokens looked up in the prefix cache", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Tokens found in the prefix cache", stats.prefix_cache_hits),
            ("engine_steps", "Steps of the engine", stats.num_steps),
            ("engine_restarts", "Times that the engine's process was restarted", self._num_restarts),
        )
        for name, text, count in counters:
            counter_family = CounterMetricFamily(f"pagedc:{name}", text, labels=["model_name"])
            counter_family.add_metric(model, count)
            yield counter_family
        gauges = (
            ("num_requests_running", "Sequences in the engine's batch", stats.num_running),
            ("num_requests_waiting", "Sequences that wait for the engine", stats.num_waiting),
            ("kv_cache_usage", "Part of the KV cache's blocks in use, 0 to 1", stats.kv_cache_usage),
            ("num_http_requests", "Generation requests open in the server", metrics.num_http_requests),
            ("num_connections", "Open connections", metrics.num_connections),
        )
        for name, text, value in gauges:
            gauge_family = GaugeMetricFamily(f"pagedc:{name}", text, labels=["model_name"])
            gauge_family.add_metric(model, value)
            yield gauge_family
        finished = CounterMetricFamily(
            "pagedc:request_success", "Sequences that ended", labels=["model_name", "finished_reason"]
        )
        for reason, count in sorted(metrics.finished.items()):
            finished.add_metric([*model, reason], count)
        yield finished
        rejected = CounterMetricFamily(
            "pagedc:request_rejections", "Requests answered with an error", labels=["model_name", "status"]
        )
        for status, count in sorted(metrics.rejected.items()):
            rejected.add_metric([*model, status], count)
        yield rejected
        boot = GaugeMetricFamily(
            "pagedc:boot_seconds", "How long a phase of the start took", labels=["model_name", "phase"]
        )
        for phase, seconds in metrics.boot_seconds.items():
            boot.add_metric([*model, phase], seconds)
        yield boot
