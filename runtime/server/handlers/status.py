"""Routes that say how the server is: health, readiness, version, metrics, models."""

from typing import Any

from pagedc import __version__
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.validation import check_model


class HealthHandler(BaseHandler):
    """GET /health: the process lives."""

    async def get(self) -> None:
        """200 as soon as the port is bound."""
        self.send_json({"status": "ok"})

    head = get


class ReadyHandler(BaseHandler):
    """GET /ready: a request sent now would be served."""

    async def get(self) -> None:
        """200, or 503 while the engine starts or the server drains."""
        is_ready = self.state.is_ready
        if not is_ready:
            self.set_status(503)
            self.set_header("Retry-After", "1")
        status = "draining" if self.state.is_draining else "ready" if is_ready else "starting"
        self.send_json({"status": status})

    head = get


class VersionHandler(BaseHandler):
    """GET /version."""

    async def get(self) -> None:
        """The version of pagedc."""
        self.send_json({"version": __version__})


class MetricsHandler(BaseHandler):
    """GET /metrics, in Prometheus' text form."""

    async def get(self) -> None:
        """Counters of server and engine."""
        engine = self.state.engine
        body, content_type = self.state.metrics.render(engine.stats, engine.num_restarts)
        self.set_header("Content-Type", content_type)
        self.finish(body)


class ModelsHandler(BaseHandler):
    """GET /v1/models."""

    async def get(self) -> None:
        """All names under which the package is served."""
        self.send_json({"object": "list", "data": [self.describe(name) for name in self.state.model.names]})

    def describe(self, name: str) -> dict[str, Any]:
        """One entry."""
        model = self.state.model
        return {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": "pagedc",
            "root": model.name,
            "parent": None,
            "max_model_len": self.state.max_model_len,
        }


class ModelHandler(ModelsHandler):
    """GET /v1/models/{id}."""

    async def get(self, name: str) -> None:  # type: ignore[override]
        """One model, or 404."""
        check_model(name, self.state.model.names)
        self.send_json(self.describe(name))
