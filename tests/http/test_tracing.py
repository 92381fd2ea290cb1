"""Traces, as a collector gets them."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.http.server_process import CHAT, ServerProcess
from tests.patience import PATIENCE

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message = ExportTraceServiceRequest.FromString(body)
                assert self.path == "/v1/traces"
                for each in message.resource_spans:
                    attributes = each.resource.attributes
                    outer.resources.append({item.key: item.value.string_value for item in attributes})
                    outer.spans += [span for scope in each.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def attributes(span: Any) -> dict[str, Any]:
    """By name; a list comes as one."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(each) for each in found.values] if kind == "array_value" else found

    return {item.key: plain(item.value) for item in span.attributes}


def stop(server: ServerProcess) -> None:
    """As a service manager does."""
    server.process.terminate()
    assert server.process.wait(PATIENCE) == 0


def test_the_spans_of_requests(collector: Collector, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(otlp_endpoint=collector.url, engine={"delay": 0.005})
    assert server.ask("POST", "/v1/chat/completions", CHAT, TRACEPARENT).status == 200
    messages = [{"role": "user", "content": "unmistakable"}]
    assert server.chat(stream=True, n=2, messages=messages).status == 200
    assert server.chat(temperature=-1).status == 400
    assert server.ask("GET", "/health").status == 200
    assert server.ask("POST", "/nowhere", {}).status == 404
    stop(server)  # what is left is sent at the end
    assert {resource["service.name"] for resource in collector.resources} == {"pagedc"}
    roots = sorted((span for span in collector.spans if span.kind == 2), key=lambda s: s.start_time_unix_nano)
    assert [attributes(span)["http.response.status_code"] for span in roots] == [200, 200, 400]
    assert {span.name for span in roots} == {"POST /v1/chat/completions"}
    assert (roots[0].trace_id.hex(), roots[0].parent_span_id.hex()) == (TRACE, PARENT)
    assert roots[1].trace_id.hex() != TRACE
    assert not roots[1].parent_span_id
    facts = attributes(roots[1])
    assert facts["gen_ai.request.model"] == "fake"
    assert facts["gen_ai.usage.output_tokens"] == 10
    assert facts["gen_ai.response.finish_reasons"] == ["length", "length"]
    for root in roots:
        phases = [span for span in collector.spans if span.parent_span_id == root.span_id]
        names = ["prepare", "queue", "prefill", "decode"] if root is not roots[2] else []
        assert [span.name for span in phases] == names
        times = [root.start_time_unix_nano]
        for span in phases:
            assert span.trace_id == root.trace_id
            times += [span.start_time_unix_nano, span.end_time_unix_nano]
        times.append(root.end_time_unix_nano)
        assert times == sorted(times)
    assert not any(b"unmistakable" in span.SerializeToString() for span in collector.spans)


def test_a_client_that_asks_not_to_be_traced(
    collector: Collector, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(otlp_endpoint=collector.url)
    headers = {"traceparent": TRACEPARENT["traceparent"][:-2] + "00"}
    assert server.ask("POST", "/v1/chat/completions", CHAT, headers).status == 200
    assert server.ask("POST", "/v1/chat/completions", CHAT, {"traceparent": "nonsense"}).status == 200
    stop(server)
    assert len([span for span in collector.spans if span.kind == 2]) == 1


def test_a_collector_that_is_gone_changes_nothing(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(otlp_endpoint="http://127.0.0.1:9")
    assert server.chat().status == 200


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = "import pagedc.runtime.server.app, pagedc.runtime.server.launch, pagedc.runtime.serve, sys"
    code += "; print([name for name in sys.modules if 'opentelemetry' in name or name.endswith('tracing')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://x", "http://"])
def test_what_is_no_address(tokenizer_dir: Any, endpoint: str) -> None:
    from pagedc.runtime.errors import UsageError
    from pagedc.runtime.server.tracing import Tracing

    with pytest.raises(UsageError, match="--otlp-endpoint"):
        Tracing(endpoint)
