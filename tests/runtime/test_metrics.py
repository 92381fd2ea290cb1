"""Counting and its exposition."""

from prometheus_client.parser import text_string_to_metric_families

from pagedc.runtime.messages import EngineStats
from pagedc.runtime.metrics import Histogram, Metrics


def test_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 8.0


def test_exposition_is_what_prometheus_reads() -> None:
    metrics = Metrics('a "quoted"\nname')
    metrics.time_to_first_token.observe(0.3)
    metrics.finished["stop"] += 2
    stats = EngineStats(num_running=3, kv_cache_usage=0.25, num_preemptions=7)
    body, content_type = metrics.render(stats, num_restarts=1)
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.labels["model_name"] == metrics.model_name
    }
    assert content_type.startswith("text/plain")
    assert samples["pagedc:time_to_first_token_seconds_sum"] == 0.3
    assert samples["pagedc:num_requests_running"] == 3
    assert samples["pagedc:kv_cache_usage"] == 0.25
    assert samples["pagedc:num_preemptions_total"] == 7
    assert samples["pagedc:request_success_total"] == 2
    assert samples["pagedc:engine_restarts_total"] == 1
