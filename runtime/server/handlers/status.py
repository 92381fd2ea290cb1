"""Routes that say how the server is: health, readiness, version, metrics, models."""

from typing import Any

from pagedc import __version__
from pagedc.runtime.metrics import ModelFigures, ServerFigures, render
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.hosted_model import HostedModel
from pagedc.runtime.server.openapi import document


class HealthHandler(BaseHandler):
    """GET /health: the process lives."""

    needs_key = False

    async def get(self) -> None:
        """200 as soon as the port is bound."""
        self.send_json({"status": "ok"})

    head = get


class ReadyHandler(BaseHandler):
    """GET /ready: a request sent now would be served."""

    needs_key = False

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


class OpenApiHandler(BaseHandler):
    """GET /openapi.json."""

    async def get(self) -> None:
        """The routes and the types of their bodies."""
        state = self.state
        self.send_json(document(has_keys=not state.keys.is_open, has_admin=not state.admin_keys.is_open))


class MetricsHandler(BaseHandler):
    """GET /metrics, in Prometheus' text form."""

    async def get(self) -> None:
        """Counters of the server and of each model's engine."""
        state = self.state
        body, content_type = render(
            ServerFigures(state.num_connections, state.rejected),
            [
                ModelFigures(
                    hosted.metrics,
                    hosted.engine.stats,
                    hosted.engine.num_restarts,
                    is_awake=hosted.status == "ready",
                )
                for hosted in state.models
            ],
        )
        self.set_header("Content-Type", content_type)
        self.finish(body)


class ModelsHandler(BaseHandler):
    """GET /v1/models."""

    async def get(self) -> None:
        """All names under which packages are served."""
        models = [describe_model(name, hosted) for hosted in self.state.models for name in hosted.model.names]
        self.send_json({"object": "list", "data": models})


class ModelHandler(BaseHandler):
    """GET /v1/models/{id}."""

    async def get(self, name: str) -> None:
        """One model, or 404."""
        self.send_json(describe_model(name, self.state.find(name)))


def describe_model(name: str, hosted: HostedModel) -> dict[str, Any]:
    """A model's entry under one of its names."""
    model = hosted.model
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "pagedc",
        "root": model.name,
        "parent": None,
        "max_model_len": hosted.max_model_len,
        "status": hosted.status,
    }
