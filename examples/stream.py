"""Stream an answer from a package, in one process: python examples/stream.py PACKAGE QUESTION"""

import sys

import pagedc

if len(sys.argv) != 3:
    sys.exit(__doc__)
package, question = sys.argv[1:]
with pagedc.LLM(package) as llm:
    for delta in llm.stream_chat([{"role": "user", "content": question}]):
        print(delta.text, end="", flush=True)
print()
