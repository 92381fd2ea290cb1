"""API keys: read once from a file, compared in constant time, never logged."""

import hashlib
import hmac
from pathlib import Path

from pagedc.runtime.errors import AuthenticationError, UsageError


class ApiKeys:
    """The keys that open the server; none means that it is open."""

    def __init__(self, keys: list[str]) -> None:
        # Digests of one length: comparing them takes the same time whatever a client sends.
        self._digests = [_digest(key.encode()) for key in keys]

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._digests

    def check(self, headers: list[str]) -> None:
        """Raise AuthenticationError unless the one Authorization header bears a known key."""
        if self.is_open:
            return
        if len(headers) != 1:
            problem = "no API key was given" if not headers else "the Authorization header stands twice"
            raise AuthenticationError(f"Authentication failed: {problem}; send 'Authorization: Bearer KEY'.")
        scheme, _, key = headers[0].partition(" ")
        digest = _digest(key.strip().encode("utf-8", "surrogateescape"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise AuthenticationError("Authentication failed: the API key is wrong.")


def read_api_keys(path: Path, option: str = "--api-key-file") -> ApiKeys:
    """Read one key a line; blank lines and lines that start with # are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{option} {path} cannot be read: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise UsageError(f"{option} {path} holds no key")
    if any(not key.isascii() or " " in key for key in keys):
        raise UsageError(f"{option} {path} holds a key that is not plain ASCII without spaces")
    return ApiKeys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
