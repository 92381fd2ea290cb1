"""docs/grafana.json asks for what /metrics has."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.http.server_process import ServerProcess

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"


def test_every_figure_of_the_dashboard_exists(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.complete(max_tokens=3)
    server.complete(temperature=-1)
    served = set(re.findall(r"^(pagedc:\w+)", server.ask("GET", "/metrics").body.decode(), re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set(re.findall(r"pagedc:\w+", DASHBOARD.read_text()))
    assert asked <= served
    assert len(asked) > 15
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
