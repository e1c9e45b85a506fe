"""Bodies of requests, as OpenAI documents them, with vLLM's names for what OpenAI lacks.

Every field is honoured or refused: an allow-list. A field that is ignored would leave the caller with an answer that he takes
for something else. Fields that only describe the caller (``user``, ``metadata``) have no effect by definition, and fields that
the server does not implement are accepted with the value that turns them off. ``null`` means that a field is absent.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tt_edge.generation_config import MAX_LOGPROBS, MAX_STOP_STRINGS, GenerationConfig
from tt_edge.server.errors import ApiError
from tt_edge.server.parsing.fields import Fields
from tt_edge.server.parsing.messages import Messages
from tt_edge.server.parsing.tools import Tools, for_template

#: Most answers to one prompt, and most prompts of one request.
MAX_CHOICES, MAX_PROMPTS = 16, 2048

#: Fields that are not implemented, with the values that ask for nothing.
_INERT: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "priority": (0,),
}


#: Most entries of the fields that hold several.
_MOST = {
    "messages": 2048,
    "stop": MAX_STOP_STRINGS,
    "stop_token_ids": 256,
    "logit_bias": 1024,
    "chat_template_kwargs": 64,
    "metadata": 64,
}


class StreamOptions(Fields):
    """Of a streamed answer."""

    include_usage: bool = False


class _Sampling(Fields):
    """What both endpoints take."""

    #: Fields of this endpoint that are taken with the values that ask for nothing, beside ``_INERT``.
    inert: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: str = Field(max_length=512)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    #: Prompts are computed from the KV cache of earlier ones only where this is equal (vLLM).
    cache_salt: str | None = Field(None, min_length=1, max_length=512)
    #: Who asks, for OpenAI's own records.
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)
    metadata: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body is not a JSON object")
        inert, taken = {**_INERT, **cls.inert}, {}
        for name, value in data.items():
            if name in cls.model_fields:
                taken[name] = value
            elif value is not None and value not in inert.get(name, ()):
                such = f" with the value {str(value)[:80]!r}" if name in inert else ""
                raise ApiError(400, f"{str(name)[:80]} is not supported{such}; omit it", param=str(name)[:80])
            if (many := len(value) if isinstance(value, list | dict) else 0) > _MOST.get(name, many):
                raise ApiError(400, f"{name} has {many} entries, more than {_MOST[name]}; send fewer", param=name)
        return taken

    @model_validator(mode="after")
    def _fits_together(self) -> Any:
        if self.best_of not in (None, self.n):
            raise ApiError(400, f"best_of {self.best_of} is not supported; omit it", param="best_of")
        if self.stream_options is not None and not self.stream:
            raise ApiError(
                400, "stream_options is for streamed answers; omit it, or set stream", param="stream_options"
            )
        return self

    def config(
        self,
        defaults: GenerationConfig,
        max_new_tokens: int,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
    ) -> list[GenerationConfig]:
        """``n`` configurations: what is not given is ``defaults``'. With a seed, each has one of its own."""
        names = (
            "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty logit_bias seed stop"
            " stop_token_ids ignore_eos"
        )
        given = {name: value for name in names.split() if (value := getattr(self, name)) is not None}
        if "seed" in given:
            given["seed"] %= 2**63  # OpenAI's may be negative
        limits = {"max_new_tokens": max_new_tokens, "logprobs": logprobs, "prompt_logprobs": prompt_logprobs}
        values = {**defaults.to_dict(), **given, **limits}
        seeds = [(values["seed"] + i) % 2**63 if values["seed"] is not None else None for i in range(self.n)]
        return [GenerationConfig.from_dict({**values, "seed": seed}) for seed in seeds]


#: Names in ``chat_template_kwargs`` that would be taken for the server's own arguments.
_RESERVED = frozenset({"self", "messages", "template", "has_processor"})


class ChatRequest(_Sampling):
    """Body of ``/v1/chat/completions``."""

    inert: ClassVar[dict[str, tuple[Any, ...]]] = {"echo": (False,), "add_special_tokens": (False,)}

    messages: Messages
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    #: Of vLLM: whether the prompt ends where an answer begins, and whether the last message is to be continued.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    #: For the chat template. Calls in an answer are text, as the model writes them.
    tools: Tools | None = None
    tool_choice: Literal["none", "auto"] = "auto"

    @model_validator(mode="after")
    def _fits_the_template(self) -> Any:
        for name in _RESERVED & self.chat_template_kwargs.keys():
            raise ApiError(
                400, f"chat_template_kwargs has {name}, which is the server's; omit it", param="chat_template_kwargs"
            )
        return self

    @model_validator(mode="after")
    def _logprobs_are_asked_for(self) -> Any:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true; set it, or omit top_logprobs", param="top_logprobs")
        return self

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is given beside the messages."""
        own = {name: getattr(self, name) for name in ("add_generation_prompt", "continue_final_message")}
        tools = {"tools": for_template(self.tools)} if self.tools else {}
        return {
            **self.chat_template_kwargs,
            **{name: value for name, value in own.items() if value is not None},
            **tools,
        }

    @property
    def warnings(self) -> list[str]:
        """What the caller must know about the answer."""
        if not self.tools or self.tool_choice == "none":
            return []
        return ["calls of tools are in the answer's content, as the model writes them; message.tool_calls is never set"]

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Sampling):
    """Body of ``/v1/completions``. A prompt is text or token ids; several may be given."""

    prompt: Any
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> Any:
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens is 0; give at least 1, or set echo for the prompt only", param="max_tokens")
        if self.echo and self.logprobs is not None and self.stream:
            raise ApiError(400, "echo with logprobs is not streamed; omit stream", param="stream")
        return self

    @property
    def prompt_logprobs(self) -> int | None:
        """Log-probabilities of the prompt's tokens; without new tokens, the prompt is computed for itself."""
        if not self.echo:
            return None
        return self.logprobs if self.max_tokens else (self.logprobs or 0)

    def prompts(self, vocab_size: int) -> list[str | list[int]]:
        """The prompts, checked. Raises ``ApiError`` for what is neither text nor token ids below ``vocab_size``."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if not isinstance(given, list) or not given:
            raise _no_prompt(given, "prompt")
        if type(given[0]) is int:
            return [_token_ids(given, vocab_size, "prompt")]
        if len(given) > MAX_PROMPTS:
            raise ApiError(400, f"prompt has {len(given)} prompts, more than {MAX_PROMPTS}; send fewer", param="prompt")
        found: list[str | list[int]] = []
        for place, item in enumerate(given):
            if isinstance(item, list) and item:
                item = _token_ids(item, vocab_size, f"prompt.{place}")
            elif not isinstance(item, str):
                raise _no_prompt(item, f"prompt.{place}")
            found.append(item)
        return found


def _token_ids(values: list[Any], vocab_size: int, place: str) -> list[int]:
    for value in values:
        if type(value) is not int:
            raise _no_prompt(value, place)
        if not 0 <= value < vocab_size:
            raise ApiError(
                400,
                f"{place} has token id {str(value)[:40]}, outside the vocabulary of {vocab_size}; encode it with the model's "
                "own tokenizer",
                param=place,
            )
    return values


def _no_prompt(value: Any, place: str) -> ApiError:
    return ApiError(
        400, f"{place} has {str(value)[:80]!r}; give text, token ids, or a list of either, none empty", param=place
    )
