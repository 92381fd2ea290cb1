"""The process that tries grammars: `run_module pagedc.runtime.grammar_process FD SECONDS`.

A grammar of a request is compiled here before an engine sees it: some make llguidance work for seconds or
take gigabytes. It has limits on memory and time and writes no files.
"""

import llguidance
import msgspec

from pagedc.runtime.grammars import make_grammar
from pagedc.runtime.messages import CheckedGrammar, CheckGrammar
from pagedc.runtime.structured_output import parser_limits
from pagedc.runtime.worker_process import answer_all

MEMORY_BYTES = 1 << 30  # of address space


def main() -> int:
    """Answer until the parent hangs up; returns the exit code."""
    decoder = msgspec.msgpack.Decoder(CheckGrammar)
    return answer_all(lambda content: msgspec.msgpack.encode(check(decoder.decode(content))), MEMORY_BYTES)


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
