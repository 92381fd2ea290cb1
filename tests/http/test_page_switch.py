"""`--no-web`, and addresses of reports."""

from collections.abc import Callable

from tests.http.server_process import ServerProcess


def test_no_page_where_it_is_switched_off(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(has_page=False)
    for path in ("/", "/web/app.js", "/web/stats", "/web/report"):
        assert server.ask("GET", path).error["code"] == "unknown_url"
    assert server.ask("GET", "/v1/models").status == 200


def test_an_address_of_a_report_is_signed(server: ServerProcess) -> None:
    path = f"/web/report/99999999999/{'0' * 64}/fp_0123456789ab"
    assert server.ask("GET", path).status == 401
    assert server.ask("GET", "/web/report?model=nothing").error["code"] == "model_not_found"
    facts = server.ask("GET", "/web/report?model=fake").json()["facts"]
    assert facts == [{"label": "model", "value": "fake (none)"}]
