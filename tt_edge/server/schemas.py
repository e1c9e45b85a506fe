"""Bodies of requests, as OpenAI documents them, with vLLM's names for what OpenAI lacks.

Fields that are not listed are ignored, as clients send many. Fields that would change the answer and are not supported
are refused, rather than ignored: the caller would take the answer for something else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from tt_edge.generation_config import MAX_LOGPROBS, GenerationConfig

#: Most answers to one prompt.
MAX_CHOICES = 16

_UNSUPPORTED = (
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "audio",
    "modalities",
    "prediction",
    "suffix",
    "guided_json",
    "guided_regex",
    "structured_outputs",
)


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class _Sampling(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="ignore")

    model: str
    n: int = Field(1, ge=1, le=MAX_CHOICES)
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

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body is not a JSON object")
        for name in _UNSUPPORTED:
            if data.get(name) not in (None, [], {}, "none", "auto", ["text"]):
                raise ValueError(f"{name} is not supported; leave it out")
        response_format = data.get("response_format")
        if response_format is not None and response_format != {"type": "text"}:
            raise ValueError('response_format is not supported; leave it out, or give {"type": "text"}')
        if data.get("best_of") not in (None, 1, data.get("n", 1)):
            raise ValueError("best_of is not supported; leave it out")
        return data

    def config(self, defaults: GenerationConfig, max_new_tokens: int, logprobs: int | None) -> list[GenerationConfig]:
        """``n`` configurations: what is not given is ``defaults``'. With a seed, each has one of its own."""
        names = (
            "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty logit_bias seed stop"
            " stop_token_ids ignore_eos"
        )
        given = {name: value for name in names.split() if (value := getattr(self, name)) is not None}
        if "seed" in given:
            given["seed"] %= 2**63  # OpenAI's may be negative
        values = {**defaults.to_dict(), **given, "max_new_tokens": max_new_tokens, "logprobs": logprobs}
        seeds = [(values["seed"] + i) % 2**63 if values["seed"] is not None else None for i in range(self.n)]
        return [GenerationConfig.from_dict({**values, "seed": seed}) for seed in seeds]


class TextPart(BaseModel):
    """A part of a message: text."""

    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """An image in a ``data:`` URL; ``detail`` and the like are ignored.

    Nothing else is taken: a client must not have the server read its files, or fetch what the client cannot reach itself.
    """

    url: str

    @field_validator("url")
    @classmethod
    def _is_data(cls, url: str) -> str:
        if not url.startswith("data:"):
            scheme, colon, _ = url[:64].partition(":")
            what = f"of scheme {scheme!r}" if colon else "without a scheme"
            raise ValueError(f"image URLs {what} are not fetched here; send the image as data:image/…;base64,…")
        return url


class ImagePart(BaseModel):
    """A part of a message: an image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
#: Told apart before they are validated, so that what is wrong with a part is said and not that a list is no string.
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")],
    Discriminator(lambda content: "text" if isinstance(content, str) else "parts"),
]


class ChatMessage(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None

    @property
    def images(self) -> list[str]:
        """Its images' URLs, in order."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]

    def plain(self) -> dict[str, Any]:
        """For a chat template: text alone as one string, with images as parts.

        Chat templates know ``developer`` by its older name ``system``.
        """
        role = "system" if self.role == "developer" else self.role
        parts = self.content or ""
        if isinstance(parts, str):
            return {"role": role, "content": parts}
        if not self.images:
            return {"role": role, "content": "".join(part.text for part in parts if isinstance(part, TextPart))}
        shown = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in parts]
        return {"role": role, "content": shown}


class ChatRequest(_Sampling):
    """Body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


Item = TypeVar("Item")
Several = Annotated[list[Item], Field(min_length=1)]


class CompletionRequest(_Sampling):
    """Body of ``/v1/completions``. A prompt is text or token ids; several may be given."""

    prompt: str | Several[str] | Several[int] | Several[list[int]]
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]
