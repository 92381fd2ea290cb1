"""/admin/models: load and unload packages while others serve.

The routes exist only with --admin-key-file.
"""

from pagedc.runtime.server.auth import ApiKeys
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.handlers.status import describe_model
from pagedc.runtime.server.protocol import LoadRequest


class AdminHandler(BaseHandler):
    """A route that takes the admin's keys and no others."""

    @property
    def accepted_keys(self) -> ApiKeys:
        """Those of --admin-key-file."""
        return self.state.admin_keys


class AdminModelsHandler(AdminHandler):
    """GET and POST /admin/models."""

    allowed_methods = ("GET", "HEAD", "POST")

    async def get(self) -> None:
        """Every model and how it stands."""
        models = [describe_model(hosted.model.name, hosted) for hosted in self.state.models]
        self.send_json({"object": "list", "data": models})

    async def post(self) -> None:
        """Open a package and start its engine; the answer comes when it takes requests."""
        hosted = await self.state.load(self.json_body(LoadRequest))
        self.set_status(201)
        self.send_json(describe_model(hosted.model.name, hosted))


class AdminModelHandler(AdminHandler):
    """DELETE /admin/models/{id}."""

    allowed_methods = ("DELETE",)

    async def delete(self, name: str) -> None:
        """Take no more requests for a model, let those that run end, and end its engine."""
        await self.state.unload(name)
        self.send_json({"id": name, "object": "model", "deleted": True})
