"""What the server counts, under the names that dashboards of this field know, with the prefix `pagedc:`.

Counting is a bisection and an addition, as it happens for every token; prometheus-client is imported when
somebody first asks, and only formats.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
    """What is counted of one model in the server's process."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.time_to_first_token = Histogram(_LONG)
        self.inter_token_latency = Histogram(_SHORT)
        self.time_per_output_token = Histogram(_SHORT)
        self.e2e_request_latency = Histogram(_LONG)
        self.request_queue_time = Histogram(_LONG)
        self.request_prompt_tokens = Histogram(_TOKENS)
        self.request_generation_tokens = Histogram(_TOKENS)
        self.finished: Counter[str] = Counter()  # sequences by finish_reason
        self.boot_seconds: dict[str, float] = {}  # by phase
        self.weights_bytes = 0  # in this machine's memory; 0 = they lie on a device
        self.num_http_requests = 0  # generation requests that are open in the server


class ModelFigures(NamedTuple):
    """Everything that is known of one model."""

    metrics: Metrics
    stats: EngineStats
    num_restarts: int
    is_awake: bool


class ServerFigures(NamedTuple):
    """What belongs to no model."""

    num_connections: int
    rejected: Mapping[str, int]  # requests by HTTP status


def render(server: ServerFigures, models: Sequence[ModelFigures]) -> tuple[bytes, str]:
    """The exposition of all of it and its content type."""
    from prometheus_client import CollectorRegistry, exposition

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(server, models))
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


# name, help, where it stands
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Metrics], Histogram]], ...] = (
    (
        "time_to_first_token_seconds",
        "From a request's arrival to its first token",
        lambda metrics: metrics.time_to_first_token,
    ),
    (
        "inter_token_latency_seconds",
        "Between two deliveries of one sequence",
        lambda metrics: metrics.inter_token_latency,
    ),
    (
        "time_per_output_token_seconds",
        "Mean per request after its first token",
        lambda metrics: metrics.time_per_output_token,
    ),
    (
        "e2e_request_latency_seconds",
        "From a request's arrival to its end",
        lambda metrics: metrics.e2e_request_latency,
    ),
    (
        "request_queue_time_seconds",
        "From a request's arrival at the engine to its first step",
        lambda metrics: metrics.request_queue_time,
    ),
    ("request_prompt_tokens", "Tokens of a prompt", lambda metrics: metrics.request_prompt_tokens),
    ("request_generation_tokens", "Tokens of an answer", lambda metrics: metrics.request_generation_tokens),
)
_COUNTERS: tuple[tuple[str, str, Callable[[ModelFigures], float]], ...] = (
    (
        "prompt_tokens",
        "Prompt tokens of requests that reached their first token",
        lambda model: model.stats.num_prompt_tokens,
    ),
    ("generation_tokens", "Tokens generated", lambda model: model.stats.num_generation_tokens),
    (
        "num_preemptions",
        "Sequences that gave their blocks up and were run again",
        lambda model: model.stats.num_preemptions,
    ),
    (
        "prefix_cache_queries",
        "Tokens looked up in the prefix cache",
        lambda model: model.stats.prefix_cache_queries,
    ),
    ("prefix_cache_hits", "Tokens found in the prefix cache", lambda model: model.stats.prefix_cache_hits),
    ("engine_steps", "Steps of the engine", lambda model: model.stats.num_steps),
    ("engine_restarts", "Times that the engine's process was restarted", lambda model: model.num_restarts),
)
_GAUGES: tuple[tuple[str, str, Callable[[ModelFigures], float]], ...] = (
    ("num_requests_running", "Sequences in the engine's batch", lambda model: model.stats.num_running),
    ("num_requests_waiting", "Sequences that wait for the engine", lambda model: model.stats.num_waiting),
    (
        "kv_cache_usage",
        "Part of the KV cache's blocks in use, 0 to 1",
        lambda model: model.stats.kv_cache_usage,
    ),
    (
        "num_http_requests",
        "Generation requests open in the server",
        lambda model: model.metrics.num_http_requests,
    ),
    (
        "weights_bytes",
        "Packed weights in this machine's memory, 0 where they lie on a device",
        lambda model: model.metrics.weights_bytes,
    ),
    ("model_awake", "Whether the model's engine runs, 0 or 1", lambda model: model.is_awake),
)


class _Collector:
    def __init__(self, server: ServerFigures, models: Sequence[ModelFigures]) -> None:
        self._server = server
        self._models = models

    def collect(self) -> "Iterator[Metric]":
        """The metric families, as prometheus-client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        family: HistogramMetricFamily | CounterMetricFamily | GaugeMetricFamily
        for name, text, histogram_of in _HISTOGRAMS:
            family = HistogramMetricFamily(f"pagedc:{name}", text, labels=["model_name"])
            for model in self._models:
                histogram = histogram_of(model.metrics)
                family.add_metric([model.metrics.model_name], histogram.cumulative(), histogram.total)
            yield family
        for kind, rows in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, text, value_of in rows:
                family = kind(f"pagedc:{name}", text, labels=["model_name"])
                for model in self._models:
                    family.add_metric([model.metrics.model_name], value_of(model))
                yield family
        finished = CounterMetricFamily(
            "pagedc:request_success", "Sequences that ended", labels=["model_name", "finished_reason"]
        )
        boot = GaugeMetricFamily(
            "pagedc:boot_seconds", "How long a phase of the start took", labels=["model_name", "phase"]
        )
        for model in self._models:
            for reason, count in sorted(model.metrics.finished.items()):
                finished.add_metric([model.metrics.model_name, reason], count)
            for phase, seconds in model.metrics.boot_seconds.items():
                boot.add_metric([model.metrics.model_name, phase], seconds)
        yield finished
        yield boot
        rejected = CounterMetricFamily(
            "pagedc:request_rejections", "Requests answered with an error", labels=["status"]
        )
        for status, count in sorted(self._server.rejected.items()):
            rejected.add_metric([status], count)
        yield rejected
        yield GaugeMetricFamily("pagedc:num_connections", "Open connections", self._server.num_connections)
