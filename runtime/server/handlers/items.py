"""POST /v1/responses and /v1/messages: chat requests in other words."""

from typing import ClassVar

from pagedc.runtime.server.answers import Answer
from pagedc.runtime.server.generation import Generation
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.handlers.generate import ChatCompletionsHandler
from pagedc.runtime.server.messages_answer import MessagesAnswer
from pagedc.runtime.server.messages_protocol import CountTokensRequest, MessagesRequest
from pagedc.runtime.server.messages_protocol import chat_request as chat_of_messages
from pagedc.runtime.server.prompts import chat_prompt
from pagedc.runtime.server.protocol import ChatCompletionRequest, GenerationRequest
from pagedc.runtime.server.responses_answer import ResponsesAnswer
from pagedc.runtime.server.responses_protocol import ResponsesRequest
from pagedc.runtime.server.responses_protocol import chat_request as chat_of_response
from pagedc.runtime.server.validation import check_chat


class ResponsesHandler(ChatCompletionsHandler):
    """POST /v1/responses."""

    id_prefix = "resp_"
    answer_type = ResponsesAnswer
    original: ResponsesRequest

    def read(self) -> ChatCompletionRequest:
        """The checked body, as a chat request."""
        self.original = self.json_body(ResponsesRequest)
        self.hosted = self.state.find(self.original.model)
        chat = chat_of_response(self.original)
        check_chat(chat, self.state.limits)
        return chat

    def make_answer(self, response_id: str, request: GenerationRequest, generation: Generation) -> Answer:
        """With the request as it came, which the answer repeats."""
        answer = super().make_answer(response_id, request, generation)
        assert isinstance(answer, ResponsesAnswer)
        answer.original = self.original
        return answer


class AnthropicKeys(BaseHandler):
    """Takes the key also as Anthropic's clients send it."""

    def credentials(self) -> list[str]:
        """The Authorization header, or what X-Api-Key has as if it stood there."""
        keys = [f"Bearer {key}" for key in self.request.headers.get_list("X-Api-Key")]
        return [*super().credentials(), *keys]


class MessagesHandler(AnthropicKeys, ChatCompletionsHandler):
    """POST /v1/messages."""

    id_prefix: ClassVar[str] = "msg_"
    answer_type: ClassVar[type[Answer]] = MessagesAnswer

    def read(self) -> ChatCompletionRequest:
        """The checked body, as a chat request."""
        original = self.json_body(MessagesRequest)
        self.hosted = self.state.find(original.model)
        chat = chat_of_messages(original)
        check_chat(chat, self.state.limits)
        return chat


class CountTokensHandler(AnthropicKeys):
    """POST /v1/messages/count_tokens."""

    allowed_methods = ("POST",)

    async def post(self) -> None:
        """How many tokens the model would read."""
        request = self.json_body(CountTokensRequest)
        hosted = self.state.find(request.model)
        chat = chat_of_messages(request)
        check_chat(chat, self.state.limits)
        prompt = await chat_prompt(chat, chat.messages, hosted.model, self.state.limits)
        self.send_json({"input_tokens": len(prompt.token_ids)})
