"""POST /tokenize and /detokenize: the package's own tokenizer, for clients that count."""

from typing import Any

from pagedc.runtime.errors import RequestError
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.prompts import chat_prompt, encode_text
from pagedc.runtime.server.protocol import DetokenizeRequest, TokenizeRequest
from pagedc.runtime.server.refusals import unsupported
from pagedc.runtime.server.validation import check_token_id


class TokenizeHandler(BaseHandler):
    """POST /tokenize."""

    allowed_methods = ("POST",)

    async def post(self) -> None:
        """Token ids of a text, or of messages as the chat template writes them."""
        request = self.json_body(TokenizeRequest)
        hosted = self.state.find(request.model)
        model = hosted.model
        if (request.prompt is None) == (request.messages is None):
            raise RequestError("Give either prompt or messages.", param="prompt", code="invalid_value")
        if request.messages is not None:
            if request.add_special_tokens:
                raise RequestError(
                    "'add_special_tokens' is for a prompt: the chat template writes its own.",
                    param="add_special_tokens",
                    code="unsupported_parameter",
                )
            token_ids = (await chat_prompt(request, request.messages, model, self.state.limits)).token_ids
        else:
            for name in ("add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools"):
                if getattr(request, name) is not None:
                    raise unsupported(name, "it is for messages")
            add_special_tokens = request.add_special_tokens is not False
            token_ids = await encode_text(request.prompt or "", model, add_special_tokens=add_special_tokens)
        answer: dict[str, Any] = {
            "count": len(token_ids),
            "max_model_len": hosted.max_model_len,
            "tokens": token_ids,
            "token_strs": None,
        }
        if request.return_token_strs:
            answer["token_strs"] = [model.tokenizer.token_text(token_id) for token_id in token_ids]
        self.send_json(answer)


class DetokenizeHandler(BaseHandler):
    """POST /detokenize."""

    allowed_methods = ("POST",)

    async def post(self) -> None:
        """The text of token ids, control tokens included."""
        request = self.json_body(DetokenizeRequest)
        model = self.state.find(request.model).model
        for token_id in request.tokens:
            check_token_id("tokens", token_id, model.vocab_size)
        self.send_json({"prompt": model.tokenizer.decode(request.tokens, skip_special_tokens=False)})
