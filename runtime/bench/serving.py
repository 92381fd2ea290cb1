"""A load on any server of the OpenAI API, at one or several levels."""

import asyncio
import http.client
import json
import os
from collections.abc import Sequence
from typing import Any

from pagedc.runtime.bench.figures import serve_figures
from pagedc.runtime.bench.load import Load, offer
from pagedc.runtime.bench.machine import read_bandwidth
from pagedc.runtime.bench.recording import Address
from pagedc.runtime.bench.server_steps import read_steps
from pagedc.runtime.bench.workload import Ask, request_body
from pagedc.runtime.errors import PagedcError


def served_model(address: Address) -> str:
    """The first model that the server lists. Raises PagedcError where it cannot be asked."""
    kind = http.client.HTTPSConnection if address.ssl else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=30)
    headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
    root = address.path.partition("/v1/")[0]
    try:
        connection.request("GET", f"{root}/v1/models", headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise PagedcError(
                f"GET /v1/models: HTTP {response.status}: {body[:200].decode(errors='replace')}"
            )
        return str(json.loads(body)["data"][0]["id"])
    except (OSError, http.client.HTTPException) as error:
        raise PagedcError(f"no answer from {address.host}:{address.port}: {error}") from None
    except (ValueError, KeyError, IndexError):
        raise PagedcError("GET /v1/models lists no model: give --model") from None
    finally:
        connection.close()


def measure_serving(
    address: Address,
    asks: Sequence[Ask],
    loads: Sequence[Load],
    *,
    model: str,
    chat: bool,
    ignore_eos: bool,
    objectives: dict[str, float],
    warmup: int,
    timeout: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Figures of each load in turn, and of a server here its steps beside the machine's read bandwidth, as if
    each read every weight once. Raises PagedcError where no request of the warm-up or a load succeeds.
    """
    bodies = [request_body(ask, model, chat=chat, ignore_eos=ignore_eos) for ask in asks]
    if warmup:
        _offer(address, bodies[:warmup], Load(concurrency=warmup), {}, timeout, seed)
    rows = []
    for load in loads:
        before = read_steps(address, model)
        figures = _offer(address, bodies, load, objectives, timeout, seed)
        after = read_steps(address, model)
        if before is not None and after is not None and before.total < after.total:  # the same engine
            figures["steps"] = after.total - before.total
            figures["bytes_read"] = figures["steps"] * after.weights_bytes
        settings = {"rate": load.rate, "burstiness": load.burstiness, "concurrency": load.concurrency}
        rows.append(settings | figures)
    measured = [row for row in rows if "bytes_read" in row]
    if measured:
        bandwidth = read_bandwidth(len(os.sched_getaffinity(0)))
        for row in measured:
            row["read_bandwidth"] = bandwidth
            row["share_of_bandwidth"] = row["bytes_read"] / row["seconds"] / bandwidth
    return rows


def _offer(
    address: Address,
    bodies: Sequence[dict[str, Any]],
    load: Load,
    objectives: dict[str, float],
    timeout: float,
    seed: int,
) -> dict[str, Any]:
    answers, seconds = asyncio.run(offer(address, bodies, load, timeout=timeout, seed=seed))
    figures = serve_figures(answers, seconds, objectives)
    if figures["failed"] == len(answers):
        raise PagedcError(f"every request failed: {figures['first_error']}")
    return figures
