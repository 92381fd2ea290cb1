"""What a server of this machine reads from memory: its steps and the bytes of a step, from its /metrics."""

import http.client
import ipaddress
import re
from typing import NamedTuple

from pagedc.runtime.bench.recording import Address


class Steps(NamedTuple):
    """Of one model."""

    total: int  # since its engine started
    weights_bytes: int  # that one reads, unless it passes over experts


def is_this_machine(host: str) -> bool:
    """Whether a host is the loopback; a server behind a tunnel is not told from one here."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_steps(address: Address, model: str) -> Steps | None:
    """None of a server elsewhere, of one that is not pagedc's, and of weights that lie on a device."""
    if not is_this_machine(address.host) or address.ssl is not None:
        return None
    headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
    try:
        connection.request("GET", f"{address.path.partition('/v1/')[0]}/metrics", headers=headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    count, num_bytes = (_value(text, name, model) for name in ("engine_steps_total", "weights_bytes"))
    return Steps(int(count), int(num_bytes)) if count is not None and num_bytes else None


def _value(text: str, name: str, model: str) -> float | None:
    found = re.search(rf'^pagedc:{name}{{model_name="{re.escape(model)}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else None
