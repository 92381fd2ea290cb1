"""Counting and its exposition."""

from prometheus_client.parser import text_string_to_metric_families

from pagedc.runtime.messages import EngineStats
from pagedc.runtime.metrics import Histogram, Metrics, ModelFigures, ServerFigures, render


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
    metrics.request_queue_time.observe(0.01)
    other = ModelFigures(Metrics("other"), EngineStats(), 0, is_awake=False)
    body, content_type = render(
        ServerFigures(5, {"400": 3}), [ModelFigures(metrics, stats, 1, is_awake=True), other]
    )
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.labels.get("model_name", metrics.model_name) == metrics.model_name
    }
    assert content_type.startswith("text/plain")
    assert samples["pagedc:time_to_first_token_seconds_sum"] == 0.3
    assert samples["pagedc:num_requests_running"] == 3
    assert samples["pagedc:kv_cache_usage"] == 0.25
    assert samples["pagedc:num_preemptions_total"] == 7
    assert samples["pagedc:request_success_total"] == 2
    assert samples["pagedc:engine_restarts_total"] == 1
    assert samples["pagedc:request_queue_time_seconds_count"] == 1
    assert samples["pagedc:model_awake"] == 1
    assert samples["pagedc:num_connections"] == 5
    assert samples["pagedc:request_rejections_total"] == 3
    assert b'pagedc:num_requests_running{model_name="other"} 0.0' in body
