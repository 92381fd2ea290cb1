"""The page at / and what only it asks for: its files, the figures of its charts, a package's compile report.

The page and its files need no key: a browser sends none when it is pointed at an address, and they are the
same bytes as in the source, with nothing of this server in them. Everything that they ask for needs one. The
report is shown in a frame, which sends no header either: its address carries a signature that lasts a minute.
"""

import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Any

from tornado.web import HTTPError

from pagedc import __version__
from pagedc.runtime.errors import AuthenticationError
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.hosted_model import HostedModel

WEB = Path(__file__).parents[2] / "web"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing inline, nothing from elsewhere, no HTML from strings, no frame around it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# A report is one file with its own styles and drawings: it runs nothing and reaches nothing.
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
REPORT_NAME = "report.html"
LINK_SECONDS = 60

_SECRET = secrets.token_bytes(32)
_BEGAN = time.monotonic()


class PageHandler(BaseHandler):
    """GET / and /web/…: the files as they lie in the source."""

    needs_key = False

    async def get(self, name: str = "index.html") -> None:
        """One file by its exact name."""
        path = WEB / name
        # Compared with what is there, not joined and followed: no name leads out of the directory.
        if name not in {entry.name for entry in WEB.iterdir()} or path.suffix not in MEDIA_TYPES:
            raise HTTPError(404)
        self.set_header("Content-Type", MEDIA_TYPES[path.suffix])
        self.set_header("Content-Security-Policy", PAGE_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cache-Control", "no-cache")
        self.finish(path.read_bytes())

    head = get


class StatsHandler(BaseHandler):
    """GET /web/stats: what the charts show."""

    async def get(self) -> None:
        """State now, and counters."""
        state = self.state
        self.send_json(
            {
                "time": round(time.monotonic() - _BEGAN, 3),
                "version": __version__,
                "uptime": round(time.monotonic() - _BEGAN),
                "connections": state.num_connections,
                "models": [_figures(hosted) for hosted in state.models],
            }
        )


class ReportLinkHandler(BaseHandler):
    """GET /web/report?model=NAME: facts of a package, and where a frame finds its report."""

    async def get(self) -> None:
        """The address is good for a minute."""
        model = self.state.find(self.get_query_argument("model", None)).model
        url = None
        if (model.path / REPORT_NAME).is_file():
            expires = int(time.time()) + LINK_SECONDS
            url = f"/web/report/{expires}/{_signature(expires, model.fingerprint)}/{model.fingerprint}"
        facts = [{"label": label, "value": value} for label, value in model.facts.items()]
        self.send_json({"url": url, "facts": facts})


class ReportHandler(BaseHandler):
    """GET /web/report/EXPIRES/SIGNATURE/FINGERPRINT: the report.html of a package."""

    needs_key = False  # the signature stands for it

    async def get(self, expires: str, signature: str, fingerprint: str) -> None:
        """The file, shut off from everything."""
        is_signed = hmac.compare_digest(signature, _signature(int(expires), fingerprint))
        if not is_signed or int(expires) < time.time():
            raise AuthenticationError("This address of a report is no longer good: load the page again.")
        for hosted in self.state.models:
            model = hosted.model
            if model.fingerprint == fingerprint:
                self.set_header("Content-Type", "text/html; charset=utf-8")
                self.set_header("Content-Security-Policy", REPORT_POLICY)
                self.set_header("X-Content-Type-Options", "nosniff")
                self.set_header("Cache-Control", "no-store")
                self.finish((model.path / REPORT_NAME).read_bytes())
                return
        raise HTTPError(404)


def _signature(expires: int, fingerprint: str) -> str:
    return hmac.new(_SECRET, f"{expires}/{fingerprint}".encode(), hashlib.sha256).hexdigest()


def _figures(hosted: HostedModel) -> dict[str, Any]:
    stats = hosted.engine.stats
    return {
        "names": hosted.model.names,
        "status": hosted.status,
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        "kv_cache_usage": stats.kv_cache_usage,
        "prompt_tokens": stats.num_prompt_tokens,
        "generation_tokens": stats.num_generation_tokens,
        "prefix_cache_queries": stats.prefix_cache_queries,
        "prefix_cache_hits": stats.prefix_cache_hits,
        "preemptions": stats.num_preemptions,
        "restarts": hosted.engine.num_restarts,
        "max_model_len": hosted.max_model_len,
    }
