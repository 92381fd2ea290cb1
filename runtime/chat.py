"""`pagedc chat`: a conversation in the terminal, with a package opened here or with a server elsewhere.

/exit leaves, /clear forgets the conversation, Ctrl-C stops the answer that is being written.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, Protocol

from pagedc.runtime.errors import PagedcError

HELP = "/exit or Ctrl-D leaves, /clear starts again, Ctrl-C stops an answer."
Messages = list[dict[str, Any]]


class Backend(Protocol):
    """Whoever answers."""

    name: str

    def answer(self, messages: Messages) -> AsyncIterator[str]:
        """Pieces of the answer's text."""
        ...

    async def close(self) -> None:
        """End what was started."""
        ...


def chat(options: argparse.Namespace) -> int:
    """Talk until /exit or the end of input; returns the exit code."""
    return asyncio.run(_chat(options))


async def _chat(options: argparse.Namespace) -> int:
    backend: Backend
    if options.target.startswith(("http://", "https://")):
        from pagedc.runtime.chat_backends import open_server

        backend = await open_server(options)
    else:
        from pagedc.runtime.chat_backends import open_package

        backend = await open_package(options)
    try:
        await _converse(backend, options.system)
    finally:
        await backend.close()
    return 0


async def _converse(backend: Backend, system: str | None) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    is_terminal = sys.stdin.isatty() and console.is_terminal
    opening: Messages = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    if is_terminal:
        console.print(f"[bold]{backend.name}[/bold]  [dim]{HELP}[/dim]")
    while (text := _ask(is_terminal)) is not None:
        command = text.strip()
        if command in ("/exit", "/quit"):
            return
        if command == "/clear":
            messages = list(opening)
            continue
        if not command:
            continue
        if command == "/help":
            console.print(HELP)
            continue
        messages.append({"role": "user", "content": text})
        try:
            answer = await _show(backend, messages)
        except PagedcError as error:
            if not is_terminal:
                raise
            console.print(f"error: {error}", style="red", markup=False)
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer})


def _ask(is_terminal: bool) -> str | None:
    """The next line, None at the end of input.

    It holds up the event loop, on which nothing happens between answers: in a thread, it would keep Ctrl-C
    waiting for the next line.
    """
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  input() then edits lines and remembers them
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        line = input("\n> " if is_terminal else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        if not is_terminal:
            raise
        print("\n" + HELP)
        return ""
    finally:
        signal.signal(signal.SIGINT, previous)
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _harmless(text: str) -> str:
    """Text without the control characters by which a model could command the terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


async def _show(backend: Backend, messages: Messages) -> str:
    """Write an answer as it comes; Ctrl-C ends it, and what was written stays."""
    pieces: list[str] = []

    async def write() -> None:
        async with aclosing(backend.answer(messages)) as answer:  # type: ignore[type-var]
            async for piece in answer:
                pieces.append(piece)
                sys.stdout.write(_harmless(piece))
                sys.stdout.flush()

    writing = asyncio.ensure_future(write())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, writing.cancel)
    try:
        await writing
    except asyncio.CancelledError:
        if not writing.cancelled():
            raise
        sys.stdout.write(" […]")
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if pieces:
            sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(pieces)
