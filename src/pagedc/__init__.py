"""Compile a Hugging Face language model ahead of time into a sealed package, and serve it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagedc.compiler.api import compile
    from pagedc.runtime.async_llm import AsyncLLM
    from pagedc.runtime.llm import LLM
    from pagedc.runtime.sampling_params import SamplingParams

__version__ = "0.1.0"

__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__", "compile"]


def __getattr__(name: str) -> Any:
    """Import on first use: importing pagedc imports neither torch nor transformers."""
    if name == "compile":
        from pagedc.compiler.api import compile as compile_

        return compile_
    if name == "LLM":
        from pagedc.runtime.llm import LLM

        return LLM
    if name == "AsyncLLM":
        from pagedc.runtime.async_llm import AsyncLLM

        return AsyncLLM
    if name == "SamplingParams":
        from pagedc.runtime.sampling_params import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'pagedc' has no attribute {name!r}")
