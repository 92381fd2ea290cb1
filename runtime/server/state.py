"""What all handlers share: the models, the bounds, and whether the server takes requests now."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pagedc.runtime.errors import (
    NotFoundError,
    OverloadedError,
    PackageError,
    PagedcError,
    RequestError,
    UsageError,
)
from pagedc.runtime.grammar_checker import GrammarChecker
from pagedc.runtime.server.auth import ApiKeys
from pagedc.runtime.server.failures import DRAIN_RETRY_AFTER
from pagedc.runtime.server.hosted_model import HostedModel
from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.protocol import LoadRequest

if TYPE_CHECKING:
    from pagedc.runtime.server.tracing import Tracing

OpenModel = Callable[[LoadRequest], Awaitable[HostedModel]]


class ServerState:
    """Shared by the handlers of one server; all methods belong to the event loop's thread."""

    def __init__(
        self,
        models: Sequence[HostedModel],
        *,
        limits: Limits,
        keys: ApiKeys,
        allow_origin: str = "",
        has_page: bool = True,
        admin_keys: ApiKeys | None = None,  # none: models are neither loaded nor unloaded
        open_model: OpenModel | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.models = list(models)  # in order of loading: the first is the default where a route needs none
        self.limits = limits
        self.keys = keys
        self.allow_origin = allow_origin
        self.has_page = has_page
        self.admin_keys = admin_keys or ApiKeys([])
        self.tracing = tracing
        self._open_model = open_model
        self._loading = asyncio.Lock()  # two that load would count on the same memory
        self.is_draining = False
        self.num_connections = 0
        self.grammars = GrammarChecker(max_len=limits.max_grammar_len)
        self.rejected: Counter[str] = Counter()  # requests by HTTP status

    def find(self, name: str | None) -> HostedModel:
        """The model of this name, without one the only model; raises NotFoundError."""
        if name is None and len(self.models) == 1:
            return self.models[0]
        for hosted in self.models:
            if name in hosted.model.names:
                return hosted
        if name is None and self.models:
            raise NotFoundError("Name a model: there are several.", param="model", code="model_not_found")
        raise NotFoundError(
            f"The model {quoted(name or '')} does not exist.", param="model", code="model_not_found"
        )

    async def load(self, request: LoadRequest) -> HostedModel:
        """Open a package and wait for its engine; raises RequestError for what cannot be served."""
        if self._open_model is None:
            raise NotFoundError("This server loads no models.", code="unknown_url")
        if "\0" in request.package:
            raise RequestError("A path holds no NUL.", param="package", code="cannot_load")
        async with self._loading:
            try:
                hosted = await self._open_model(request)
                self._refuse_taken_names(hosted)
            except (PackageError, UsageError) as error:
                raise RequestError(str(error), param="package", code="cannot_load") from None
            try:
                await hosted.start()
            except PagedcError as error:
                await hosted.close()
                raise RequestError(str(error), param="package", code="cannot_load") from None
            self.models.append(hosted)
        return hosted

    def _refuse_taken_names(self, hosted: HostedModel) -> None:
        taken = {name for other in self.models for name in other.model.names}
        for name in hosted.model.names:
            if name in taken:
                raise RequestError(
                    f"A model is called {quoted(name)} already.", param="names", code="name_taken"
                )

    async def unload(self, name: str) -> None:
        """Forget a model at once, and end its engine when its requests have ended; raises NotFoundError."""
        hosted = self.find(name)
        self.models.remove(hosted)
        await hosted.leave(self.limits.drain_timeout)

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would be served."""
        return not self.is_draining and all(hosted.is_answering for hosted in self.models)

    @property
    def num_http_requests(self) -> int:
        """Generation requests that are open."""
        return sum(hosted.metrics.num_http_requests for hosted in self.models)

    @contextmanager
    def admit(self, hosted: HostedModel, num_sequences: int) -> Iterator[None]:
        """Hold room for a request, or raise OverloadedError: 503 while draining, 429 when too many wait."""
        if self.is_draining:
            raise OverloadedError("The server is shutting down.", retry_after=DRAIN_RETRY_AFTER)
        with hosted.admit(num_sequences):
            yield

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no generation request is open; False if some still are after `timeout` seconds."""
        return all(await asyncio.gather(*(hosted.wait_idle(timeout) for hosted in self.models)))
