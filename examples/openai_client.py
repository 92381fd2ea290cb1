"""Ask a server with OpenAI's own client: python examples/openai_client.py [http://127.0.0.1:8000/v1]"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1", api_key="none")
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "Write one sentence about the sea."}]
stream = client.chat.completions.create(model=model, messages=messages, max_tokens=48, seed=1, stream=True)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
