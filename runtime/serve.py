"""`pagedc serve`: each engine's process opens its package while the server imports itself."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

from pagedc.runtime.async_engine import AsyncEngine
from pagedc.runtime.config import EngineOptions
from pagedc.runtime.engine_spawn import SpawnedEngine
from pagedc.runtime.server.auth import ApiKeys, read_api_keys
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.shares import options_of_each


def serve(options: argparse.Namespace, spawned: Sequence[SpawnedEngine]) -> int:
    """Serve until a signal; returns the exit code. `spawned` is a process for each package's engine.

    Raises PagedcError when the server cannot start.
    """
    began = perf_counter()
    set_up_logging(options.log_level, options.log_format)
    keys = read_api_keys(options.api_key_file) if options.api_key_file else ApiKeys([])
    admin_keys = read_api_keys(options.admin_key_file, "--admin-key-file") if options.admin_key_file else None
    limits = Limits(
        max_waiting=options.max_waiting,
        max_connections=options.max_connections,
        max_body_bytes=options.max_body_size,
        drain_timeout=options.drain_timeout,
    )
    each = options_of_each(options.package, engine_options(options), options.memory, options.threads)
    engines = [
        AsyncEngine(path, own, step_timeout=options.step_timeout, spawned=process)
        for path, own, process in zip(options.package, each, spawned, strict=True)
    ]
    try:
        return _serve(engines, each, options, (keys, admin_keys), limits, began)
    except BaseException:
        for engine in engines:
            asyncio.run(engine.close())
        raise


def _serve(
    engines: list[AsyncEngine],
    each: list[EngineOptions],
    options: argparse.Namespace,
    keys: tuple[ApiKeys, ApiKeys | None],  # of clients, of admins
    limits: Limits,
    began: float,
) -> int:
    # Imported only now: the engines' processes do their own imports meanwhile.
    from pagedc.runtime.package import Package
    from pagedc.runtime.server.hosted_model import Engine, HostedModel
    from pagedc.runtime.server.launch import ListenOptions, run_server
    from pagedc.runtime.server.protocol import LoadRequest
    from pagedc.runtime.server.served_model import ServedModel, choose_names, open_served_model

    imported = perf_counter()
    packages = [Package.open(path) for path in options.package]
    checked = perf_counter()
    names = choose_names(packages, options.served_model_name)
    models = [
        open_served_model(package, own, options.max_model_len, options.tool_parser, options.reasoning_parser)
        for package, own in zip(packages, names, strict=True)
    ]
    boot = {"imports": imported - began, "check": checked - imported, "tokenizer": perf_counter() - checked}

    def host(model: ServedModel, own: EngineOptions, engine: Engine | None = None) -> HostedModel:
        open_engine = partial(AsyncEngine, model.path, own, step_timeout=options.step_timeout)
        return HostedModel(model, open_engine, limits, engine=engine, idle_unload=options.idle_unload)

    async def open_model(request: LoadRequest) -> HostedModel:
        own = replace(engine_options(options), memory=request.memory, num_threads=request.threads)
        package = await asyncio.to_thread(Package.open, request.package)
        names = tuple(request.names) or (package.manifest.model.name,)
        model = await asyncio.to_thread(open_served_model, package, names, options.max_model_len)
        return host(model, own)

    listen = ListenOptions(
        host=options.host,
        port=options.port,
        keys=keys[0],
        admin_keys=keys[1],
        open_model=open_model,
        limits=limits,
        allow_origin=options.allow_origin,
        has_page=not options.no_web,
        otlp_endpoint=options.otlp_endpoint,
    )

    def open_models() -> list[HostedModel]:
        return [host(*of_one) for of_one in zip(models, each, engines, strict=True)]

    return run_server(open_models, listen, boot)


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """What of the command line is alike for every engine."""
    return EngineOptions(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        prefix_cache=not options.no_prefix_cache,
    )


def set_up_logging(level: str, form: str) -> None:
    """One line an event on stderr, as text or as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object a line."""
        entry = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            entry["request_id"] = request_id
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)
