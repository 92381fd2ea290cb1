"""OpenTelemetry spans of requests, sent as OTLP over HTTP: `pagedc serve --otlp-endpoint URL`.

A request's spans are made when it has ended, of times that are known by then: nothing is done for a token.
OpenTelemetry is imported only here, and this module only where an endpoint is named.
"""

from time import perf_counter, time_ns
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pagedc import __version__
from pagedc.runtime.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from tornado.httputil import HTTPServerRequest

    from pagedc.runtime.server.generation import Generation

EXPORT_TIMEOUT = 5.0  # seconds that a collector may take, also at the end of the server
TRACES_PATH = "/v1/traces"


class Tracing:
    """Sends the spans of finished requests from a thread; a collector that is gone costs a line in the log.

    OpenTelemetry's own environment variables hold: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
    OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS.
    """

    def __init__(self, endpoint: str) -> None:
        """Raises UsageError for an address that is none, or where the extra is not installed."""
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UsageError(f"--otlp-endpoint {endpoint}: it is no address like http://localhost:4318")
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise UsageError("--otlp-endpoint needs OpenTelemetry: pip install 'pagedc[otlp]'") from None
        if url.path in ("", "/"):
            url = url._replace(path=TRACES_PATH)
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):  # nobody named it
            resource = resource.merge(Resource({"service.name": "pagedc"}))
        self._provider: TracerProvider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=url.geturl(), timeout=EXPORT_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("pagedc", __version__)

    def record(
        self, request: "HTTPServerRequest", request_id: str, status: int, generation: "Generation | None"
    ) -> None:
        """The spans of a request that ends now; with its W3C `traceparent` they belong to the client's
        trace.
        """
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        now, end = perf_counter(), time_ns()
        carrier = {
            key: request.headers[key] for key in ("traceparent", "tracestate") if key in request.headers
        }
        span = self._tracer.start_span(
            f"POST {request.path}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "POST",
                "url.path": request.path,
                "http.response.status_code": status,
                "pagedc.request_id": request_id,
            },
            start_time=end - int(request.request_time() * 1e9),
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        if generation is not None:
            usage = generation.usage
            span.set_attribute("gen_ai.request.model", generation.model_name)
            span.set_attribute("gen_ai.usage.input_tokens", usage.num_prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.num_completion_tokens)
            reasons = [choice.finish_reason or "abort" for choice in generation.choices]
            span.set_attribute("gen_ai.response.finish_reasons", reasons)
            context = set_span_in_context(span)
            for phase, begin, stop in generation.phases():
                self._phase(phase, context, end - int((now - begin) * 1e9), end - int((now - stop) * 1e9))
        span.end(end)

    def _phase(self, name: str, context: "Context", begin: int, end: int) -> None:
        self._tracer.start_span(name, context=context, start_time=begin).end(max(begin, end))

    def close(self) -> None:
        """Send what is left; blocks for EXPORT_TIMEOUT at most."""
        self._provider.shutdown()
