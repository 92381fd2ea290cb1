"""Compile a model and ask it something, in one process and without a server."""

import pagedc

package = pagedc.compile("smollm2-135m")
with pagedc.LLM(package) as llm:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = llm.chat(question, pagedc.SamplingParams(temperature=0, max_tokens=32))
    print(answer.text)
