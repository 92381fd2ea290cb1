"""The server whose page is looked at."""

from tests.http.conftest import server, start_server, tokenizer_dir

__all__ = ["server", "start_server", "tokenizer_dir"]
