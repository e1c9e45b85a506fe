"""What each route of OpenAI's API does: from the body of a request to the model, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tt_edge.runtime.async_llm import AsyncLLM, CompletionStream
from tt_edge.runtime.text.chat import RenderedChat
from tt_edge.runtime.text.completion import EncodedPrompt
from tt_edge.server.access.guard import Client
from tt_edge.server.answers import responses
from tt_edge.server.answers.replies import ChatReply, TextReply
from tt_edge.server.errors import ApiError, context_length_exceeded
from tt_edge.server.images import MAX_IMAGES, ImageEncoder
from tt_edge.server.metrics import Metrics
from tt_edge.server.parsing.bodies import MEDIA_BODY, TEXT_BODY, BodyReader
from tt_edge.server.parsing.isolated import IsolatedExecutor
from tt_edge.server.parsing.schemas import ChatRequest, CompletionRequest
from tt_edge.server.settings import Settings
from tt_edge.server.transcriptions import read_transcription, response_of


class Endpoints:
    """The routes of one model. Work whose size the client decides is done in threads and processes, not on the event loop."""

    def __init__(self, model: AsyncLLM, settings: Settings) -> None:
        self._model, self.settings = model, settings
        contract, source = model.llm.session.contract, model.llm.source
        self._takes_images = model.llm.vision is not None or (source is not None and source.takes_pages)
        self._takes_speech = source is not None and source.takes_speech
        self._limit = contract.max_seq_len
        #: Of a prompt, which for an encoder-decoder of texts is its source.
        self._prompt_limit = contract.max_source_len if source is not None and source.takes_text else self._limit
        self._texts = ThreadPoolExecutor(2, "tt-edge-requests")
        self._worker = ThreadPoolExecutor(1, "tt-edge-server-images")
        self.metrics = Metrics(model)
        max_body = settings.max_body or (MEDIA_BODY if self._takes_images or self._takes_speech else TEXT_BODY)
        self._parser = IsolatedExecutor("tt-edge-server-bodies")
        self._decoder = IsolatedExecutor("tt-edge-server-decoder")
        self._bodies = BodyReader(max_body, settings.timeout_s, self._texts, self._parser)
        self._images = ImageEncoder(model, self._decoder, self._worker, self.metrics, settings.timeout_s)
        self._started = int(time.time())

    async def chat(self, request: Request) -> Response:
        """``/v1/chat/completions``."""
        llm = self._model.llm
        self._model.check_room()  # before any work: under load, most requests end here
        async with self._bodies.received(request, ChatRequest) as body:
            self._check_name(body.model)
            if llm.chat_template is None and not (llm.source is not None and self._takes_images):
                raise ApiError(400, f"model {llm.name!r} has no chat template; send a prompt to /v1/completions")
            self._check_count(1, body.n)
            salt = Client.of(request).cache_salt(body.cache_salt)
            try:
                encoded = await self._encoded(request, body, salt)
            except responses.ClientGoneError:
                return Response(status_code=499)  # nobody reads it; the logs do
        new_tokens = body.wanted_tokens or max(1, self._limit - len(encoded.ids))
        self._check_length("messages", len(encoded.ids), new_tokens)
        configs = body.config(llm.generation_defaults, new_tokens, body.wanted_logprobs)
        streams = self._model.streams([(encoded, config) for config in configs])
        reply = ChatReply(llm.name, llm.tokenizer, body.n, [*body.warnings, *encoded.images.notes])
        return await self._answer(request, body, reply, streams)

    async def completions(self, request: Request) -> Response:
        """``/v1/completions``."""
        llm = self._model.llm
        self._model.check_room()
        async with self._bodies.received(request, CompletionRequest) as body:
            self._check_name(body.model)
            if body.echo and llm.source is not None:
                raise ApiError(400, "an encoder-decoder's answer does not continue its prompt; omit echo", param="echo")
            prompts = body.prompts(llm.session.contract.vocab_size)
            self._check_count(len(prompts), body.n)
            for prompt in prompts:
                self._check_characters("prompt", len(prompt))
        configs = body.config(llm.generation_defaults, body.max_tokens, body.logprobs, body.prompt_logprobs)
        salt = Client.of(request).cache_salt(body.cache_salt)
        encoded = await self._beside(self._encoded_prompts, prompts, body.add_special_tokens, salt)
        for prompt in encoded:
            self._check_length("prompt", len(prompt.ids), body.max_tokens)
        streams = self._model.streams([(prompt, config) for prompt in encoded for config in configs])
        texts = [prompt.text for prompt in encoded for _ in configs]
        reply = TextReply(llm.name, llm.tokenizer, body.n, body.echo, body.logprobs, prompts=texts)
        return await self._answer(request, body, reply, streams)

    async def transcriptions(self, request: Request) -> Response:
        """``/v1/audio/transcriptions``."""
        return await self._written_down(request, "transcribe")

    async def translations(self, request: Request) -> Response:
        """``/v1/audio/translations``: into English."""
        return await self._written_down(request, "translate")

    async def _written_down(self, request: Request, task: str) -> Response:
        llm = self._model.llm
        if llm.source is None or not self._takes_speech:
            raise ApiError(400, f"model {llm.name!r} takes no speech; serve a speech model, such as Whisper")
        self._model.check_room()
        kind = request.headers.get("content-type", "")
        reader = partial(read_transcription, content_type=kind, extractor=llm.source.speech_features(), task=task)
        async with self._bodies.read_by(request, reader, lambda found: found.features.nbytes) as asked:
            self._check_name(asked.model)
            begin = partial(llm.sources.start_of, asked.speech, timestamps=bool(asked.timestamps))
            start = await self._beside(begin)
            changes = {"max_new_tokens": self._limit - len(start), "temperature": asked.temperature, "logprobs": 0}
            salt = Client.of(request).cache_salt(None)
            work = self._model.transcribe(
                asked.features,
                asked.seconds,
                asked.speech,
                llm.config(**changes),
                timestamps=asked.timestamps,
                cache_salt=salt,
            )
            try:
                found = await responses.while_connected(request, work, self.settings.timeout_s)
            except responses.ClientGoneError:
                return Response(status_code=499)
        return response_of(asked, found)

    async def models(self, _: Request) -> Response:
        """``/v1/models``: the one there is."""
        return JSONResponse({"object": "list", "data": [self._card]})

    async def model(self, request: Request) -> Response:
        """``/v1/models/NAME``."""
        self._check_name(request.path_params["name"])
        return JSONResponse(self._card)

    async def health(self, _: Request) -> Response:
        """``/health``: 200 while requests are served."""
        alive = self._model.is_alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def metrics_page(self, request: Request) -> Response:
        """``/metrics``."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.metrics.registry), headers={"Content-Type": kind})

    def close(self) -> None:
        """End all work, and close the model."""
        for executor in (self._texts, self._worker, self._parser, self._decoder):
            executor.shutdown(wait=False, cancel_futures=True)
        self._model.close()

    async def _encoded(self, request: Request, body: ChatRequest, salt: str) -> EncodedPrompt:
        """The conversation as the model takes it. Its messages are let go: images may be large."""
        self._check_characters("messages", sum(message.text_length for message in body.messages))
        count = sum(message.images for message in body.messages)
        if count > MAX_IMAGES:
            raise ApiError(
                400, f"the messages have {count} images, more than {MAX_IMAGES}; send fewer", param="messages"
            )
        messages = [message.plain() for message in body.messages]
        variables = body.template_variables
        body.messages.clear()
        llm = self._model.llm
        chat: RenderedChat = await self._beside(lambda: llm.render_chat(messages, **variables))
        messages.clear()
        self._check_characters("messages", len(chat.text))
        if chat.images and self._takes_images:
            return await self._images.encode(request, chat, salt)
        return await self._model.encode(chat, cache_salt=salt)

    def _encoded_prompts(
        self, prompts: Sequence[str | list[int]], add_special_tokens: bool, salt: str
    ) -> list[EncodedPrompt]:
        llm = self._model.llm
        return [
            llm.encode(prompt, add_special_tokens=add_special_tokens, cache_salt=salt)
            if isinstance(prompt, str)
            else llm.encoded_ids(prompt, cache_salt=salt)
            for prompt in prompts
        ]

    async def _answer(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        reply: responses.Reply,
        streams: list[CompletionStream],
    ) -> Response:
        timeout = self.settings.timeout_s
        if not body.stream:
            return await responses.whole(request, reply, streams, timeout, self.metrics)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return responses.Events(reply, streams, timeout, self.metrics, include_usage=usage)

    async def _beside(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._texts, work, *args)

    def _check_name(self, name: str) -> None:
        if name != self._model.llm.name:
            raise ApiError(
                404,
                f"model {name[:200]!r} is not here; this server has {self._model.llm.name!r}",
                "model_not_found",
                param="model",
            )

    def _check_count(self, prompts: int, n: int) -> None:
        """Refuse at once what can never run: more answers than there are places."""
        most = self._model.max_waiting + self._model.llm.session.contract.max_batch
        if prompts * n > most:
            raise ApiError(
                400,
                f"n {n} for {prompts} prompts makes {prompts * n} answers, and this server takes {most} at one time; ask for fewer",
                param="n" if n > 1 else "prompt",
            )

    def _check_characters(self, what: str, count: int) -> None:
        """Refuse what cannot fit before it is tokenized."""
        if count > self._prompt_limit * self._longest_token:
            raise context_length_exceeded(self._prompt_limit, what, f"your {what} has {count} characters")

    def _check_length(self, what: str, tokens: int, new_tokens: int) -> None:
        if tokens + new_tokens > self._limit:
            asked = (
                f"you requested {tokens + new_tokens} tokens ({tokens} in the {what}, {new_tokens} in the completion)"
            )
            raise context_length_exceeded(self._limit, what, asked)

    @cached_property
    def _longest_token(self) -> int:
        """Characters: a text of N tokens has at most so many times N."""
        return max(map(len, self._model.llm.tokenizer.backend.get_vocab()))

    @cached_property
    def _card(self) -> dict[str, Any]:
        llm = self._model.llm
        inputs = ["audio"] if self._takes_speech else ["text", "image"] if self._takes_images else ["text"]
        more = {"max_model_len": self._limit, "input_modalities": inputs}
        return {"id": llm.name, "object": "model", "created": self._started, "owned_by": "tt-edge", **more}
