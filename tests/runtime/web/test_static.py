"""The page's files: whole, of this server alone, and under a strict policy."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.http.server_process import ServerProcess

WEB = Path(__file__).parents[3] / "runtime" / "web"
FILES = sorted(path.name for path in WEB.iterdir())
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
FORBIDDEN = r"https?:|url\(|@import|innerHTML|outerHTML|insertAdjacent|\beval\b"
SVG_LEAVES = {"path", "circle", "rect"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID | SVG_LEAVES:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in SVG_LEAVES:
            assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def page() -> Page:
    page = Page()
    page.feed((WEB / "index.html").read_text())
    assert page.open == []
    return page


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for name in ("for", "aria-controls", "aria-labelledby"):
        assert set(page.values(name)) <= set(ids)
    used = set()
    for path in WEB.glob("*.js"):
        used |= set(re.findall(r"""\$\("([\w-]+)"\)""", path.read_text()))
    assert used <= set(ids)


def test_every_control_has_a_name(page: Page) -> None:
    labelled = set(page.values("for"))
    for tag, attrs in page.tags:
        if tag in ("input", "select", "textarea"):
            assert attrs["id"] in labelled
        if tag == "button" and "class" in attrs and attrs["class"] == "icon":
            assert attrs.get("aria-label")
        if tag == "iframe":
            assert attrs.get("title")
            assert attrs.get("sandbox") == ""


def test_nothing_is_inline_or_from_elsewhere(page: Page) -> None:
    for tag, attrs in page.tags:
        assert "style" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        assert tag != "style"
    for value in (*page.values("src"), *page.values("href")):
        assert re.fullmatch(r"/web/[a-z]+\.(js|css|svg)|#message", value)
        if value.startswith("/web/"):
            assert (WEB / value.removeprefix("/web/")).is_file()
    for path in WEB.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(FORBIDDEN, text), path.name
        for imported in re.findall(r'from "([^"]+)"', text):
            assert (WEB / imported.removeprefix("/web/")).is_file()


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to check the scripts with")
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_scripts_parse(name: str, tmp_path: Path) -> None:
    copy = tmp_path / name.replace(".js", ".mjs")
    copy.write_text((WEB / name).read_text())
    result = subprocess.run(["node", "--check", copy], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["", *(f"web/{name}" for name in FILES)])
def test_files_are_served_under_the_policy(server: ServerProcess, name: str) -> None:
    answer = server.ask("GET", f"/{name}")
    assert answer.status == 200
    path = WEB / (name.removeprefix("web/") or "index.html")
    assert answer.body == path.read_bytes()
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].startswith(("text/", "image/svg+xml"))


@pytest.mark.parametrize(
    "path",
    ["/web/", "/web/nothing.js", "/web/limits.py", "/web/..", "/web/../cli.py", "/web/%2e%2e/cli.py"],
)
def test_nothing_else_is_served(server: ServerProcess, path: str) -> None:
    assert server.ask("GET", path).error["code"] == "unknown_url"
