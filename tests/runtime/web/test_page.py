"""The page in a real Chromium, where there is one; else its static tests are what there is."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import ServerProcess
from tests.patience import PATIENCE

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install --group browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
KEY = "sk-page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh profile; what the page logs as an error fails the test."""
    context = browser.new_context(color_scheme="dark", viewport={"width": 1200, "height": 800})
    context.set_default_timeout(1e3 * PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    yield page
    context.close()
    expected = ("Failed to load resource", "Blocked script execution")  # answers that are errors; reports
    assert [text for text in problems if not text.startswith(expected)] == []


def ask(page: Any, text: str) -> None:
    """Type a message and send it with the keyboard."""
    page.fill("#message", text)
    page.keyboard.press("Enter")


def test_a_chat(page: Any, server: ServerProcess) -> None:
    page.goto(server.url)
    page.wait_for_selector("#model option[value=alias]", state="attached")
    page.click("#toggle-settings")
    page.fill("#max_tokens", "44")
    ask(page, "<img src=x> **hello**")
    page.wait_for_selector(".after")
    assert page.inner_text(".turn.user .text") == "<img src=x> **hello**"
    assert page.inner_text(".turn.assistant .text") == PANGRAM.strip()
    assert page.inner_text(".figures").startswith("44 tokens · ")
    assert "tok/s · first token after" in page.inner_text(".figures")
    assert page.inner_text("#announcer") == f"Answer: {PANGRAM.strip()}"
    page.click("text=Answer again")
    page.wait_for_selector(".after")
    assert page.locator(".turn").count() == 2
    page.click("#new-chat")
    assert page.is_visible("#welcome")


def test_stopping_and_failing(page: Any, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(engine={"delay": 0.03})
    page.goto(server.url)
    page.wait_for_selector("#model option[value=fake]", state="attached")
    ask(page, "go on")
    page.wait_for_selector(".streaming")
    page.click("#stop")
    page.wait_for_selector(".figures:has-text('stopped')")
    server.wait_for_metric("num_http_requests", 0)
    assert page.evaluate("document.activeElement.id") == "message"
    ask(page, "#die")
    page.wait_for_selector(".error[role=alert]")
    assert "the engine died" in page.inner_text(".error")


def test_figures_report_and_theme(page: Any, server: ServerProcess, tokenizer_dir: Path) -> None:
    report = "<style>:root{color-scheme:light dark}h1{color:rgb(1,2,3)}</style><h1>Tuned</h1>"
    report += "<script>document.title=1</script>"
    (tokenizer_dir.parent / "report.html").write_text(f"<!doctype html>{report}")
    page.goto(server.url)
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#models .card")
    assert page.inner_text("#models .state") == "ready"
    page.wait_for_function("document.querySelector('path.line').getAttribute('d')?.includes('L')")
    page.keyboard.press("ArrowRight")
    title = page.frame_locator("#report-frame").locator("h1")
    assert title.inner_text() == "Tuned"
    assert title.evaluate("node => getComputedStyle(node).color") == "rgb(1, 2, 3)"
    assert title.evaluate("node => getComputedStyle(node.parentNode).color") == "rgb(255, 255, 255)"  # dark
    assert page.frames[-1].title() == ""
    assert "fake (none)" in page.inner_text("#facts")
    ground = "getComputedStyle(document.body).backgroundColor"
    is_dark = page.evaluate(ground)
    page.click("#toggle-theme")
    assert page.evaluate(ground) != is_dark
    page.reload()
    assert page.get_attribute("html", "data-theme") == "light"


def test_a_key_is_asked_for_and_kept_in_the_tab(
    page: Any, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    server = start_server(key_file=str(keys))
    page.goto(server.url)
    page.wait_for_selector("#notice:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "key"
    page.fill("#key", KEY)
    page.keyboard.press("Tab")
    page.wait_for_selector("#model option[value=fake]", state="attached")
    ask(page, "#eos 4")
    page.wait_for_selector(".after")
    page.reload()
    page.wait_for_selector("#model option[value=fake]", state="attached")
    assert page.evaluate("Object.values(localStorage).join()") == ""
    assert KEY not in server.log()


def test_a_narrow_screen_holds_everything(page: Any, server: ServerProcess) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(server.url)
    page.wait_for_selector("#model option[value=alias]", state="attached")
    for view in ("server", "report", "chat"):
        page.click(f"#tab-{view}")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.click("#toggle-settings")
    page.click("#close-settings")
    assert page.evaluate("document.activeElement.id") == "toggle-settings"
