"""The process that tries grammars: `python -m pagedc.runtime.grammar_process FD`.

A grammar of a request is compiled here before an engine sees it: some make llguidance work for seconds or
take gigabytes. It has a limit on memory and writes no files; time is its parent's to limit, by killing it.
"""

import resource
import signal
import socket
import sys

import llguidance
import msgspec

from pagedc.runtime.frames import FrameReader, frame
from pagedc.runtime.grammars import make_grammar
from pagedc.runtime.messages import CheckedGrammar, CheckGrammar
from pagedc.runtime.structured_output import parser_limits

MEMORY_BYTES = 1 << 30  # of address space


def main() -> int:
    """Answer until the parent hangs up; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader, decoder = FrameReader(), msgspec.msgpack.Decoder(CheckGrammar)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.sendall(frame(b""))  # ready: the time limit of a check need not cover the imports
        while data := connection.recv(1 << 18):
            for content in reader.feed(data):
                checked = check(decoder.decode(content))
                connection.sendall(frame(msgspec.msgpack.encode(checked)))
    return 0


def check(request: CheckGrammar) -> CheckedGrammar:
    """The grammar in its final form, or one line that says what is wrong with it."""
    try:
        grammar = make_grammar(request.kind, request.text, request.before)
        is_error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(
            grammar, limits=parser_limits()
        )
    except (ValueError, TypeError) as error:
        return CheckedGrammar(None, _one_line(str(error)))
    except (MemoryError, RecursionError):
        return CheckedGrammar(None, "it takes too much memory")
    return CheckedGrammar(None, _one_line(messages[0])) if is_error else CheckedGrammar(grammar)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


if __name__ == "__main__":
    sys.exit(main())
