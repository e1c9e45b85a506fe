"""Benchmarks of a server with OpenAI's endpoints: tt-edge's own, Edge-LLM's, vLLM, llama.cpp and others."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.runtime.benchmark.client import Answer, OpenAIClient, ServerError
from tt_edge.runtime.benchmark.local import observe
from tt_edge.runtime.benchmark.records import Measured, RequestTimes
from tt_edge.runtime.benchmark.workload import Plan, Size

_TEXT = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had "
    "by word but not what all were we when your can said there use an each which she do how their if will "
    "up other about out many then them these so some her would make like him into time has look two more "
    "write go see number no way could people my than first"
)
#: Common words, most of them one token in most vocabularies.
WORDS = _TEXT.split()
#: Requests at the same time, at most, unless ``--batch`` says so.
MAX_CONCURRENT = 512
#: Tokens of a word, at least, in a count that is believed.
_LEAST = 0.1
_Prompt: TypeAlias = "str | list[dict[str, Any]]"


def random_image_url(random: np.random.Generator, width: int, height: int) -> str:
    """A PNG of random coloured patches as a ``data:`` URL. Raises ``MissingDependencyError`` without Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError('images are made with Pillow; pip install "tt-edge[vlm]"') from error
    patches = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    out = io.BytesIO()
    patches.resize((width, height)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _count_words(prompt: _Prompt) -> int:
    """The words of a prompt's texts."""
    if isinstance(prompt, str):
        return len(prompt.split())
    contents = [message["content"] for message in prompt]
    texts = [part.get("text", "") for content in contents if isinstance(content, list) for part in content]
    return sum(len(text.split()) for text in [*texts, *(content for content in contents if isinstance(content, str))])


class ServerBenchmark:
    """``plan`` on the server of ``client``. Prompts are common words; how many make ``isl`` tokens is found out first.

    ``image_size``, width and height: each prompt has an image of that size before its words, another one every time.
    """

    def __init__(
        self, client: OpenAIClient, plan: Plan, *, chat: bool, image_size: tuple[int, int] | None = None
    ) -> None:
        if plan.image_tokens:
            raise InvalidInputError("--image-tokens is for bundles; a server is sent image files: give --image-size")
        if image_size is not None and (not chat or plan.turns > 1):
            raise InvalidInputError("--image-size is for single chats; give --endpoint chat, and omit --agentic")
        self._image_size = image_size
        self.client, self.plan, self._chat = client, plan, chat
        self._fixed, self._per_word, self._has_usage = 0.0, 1.0, True

    def measure(self) -> Measured:
        """Raises ``ServerError`` if the server does not answer at all; later failures are counted."""
        self._calibrate()
        plan = self.plan
        what = f"{self.client.model} at {self.client.url}"
        if plan.rate is not None:
            measured = observe(what, self._at_a_rate, plan.warmup, 1, warm=lambda: self._together(1))
        else:
            run = self._conversations if plan.turns > 1 else partial(self._together, plan.batch)
            measured = observe(what, run, plan.warmup, plan.runs)
        return replace(measured, memory=replace(measured.memory, host=None), notes=tuple(self._notes(measured)))

    def _calibrate(self) -> None:
        """How many tokens a prompt has beside its words, and for each word."""
        random = np.random.default_rng(self.plan.seed)
        counts = (8, min(64, max(16, self.plan.isl)))
        few, many = (self.client.probe(self._words(random, count)) for count in counts)
        self._has_usage = few.has_usage and many.has_usage
        if self._has_usage:
            slope = (many.times.input_tokens - few.times.input_tokens) / (counts[1] - counts[0])
            if slope < _LEAST:  # a number that does not grow with the text says nothing about it
                return
            self._per_word = slope
            self._fixed = max(0.0, few.times.input_tokens - slope * counts[0])

    def _notes(self, measured: Measured) -> list[str]:
        notes = []
        if not self._has_usage:
            notes.append(
                "the server does not count tokens: a piece of the stream counts as a token, a word of a prompt too"
            )
        if any(len(r.chunks) > r.output_tokens for r in measured.good):
            notes.append(
                "the server streams more pieces than tokens, such as the prompt: TTFT and ITL may be of other text"
            )
        if "ignore_eos" in self.client.left_out:
            notes.append("the server has no ignore_eos, so answers may be shorter than --osl")
        if measured.energy.joules is not None or measured.memory.device is not None:
            notes.append("memory and energy are of this machine: they are the server's only if it runs here")
        inputs = [r.input_tokens for r in measured.good]
        if (
            self._has_usage
            and self.plan.turns == 1
            and self._image_size is None
            and abs(np.mean(inputs) / self.plan.isl - 1) > 0.1
        ):
            notes.append(f"prompts have {np.mean(inputs):.0f} tokens on average, not --isl {self.plan.isl}")
        return notes

    def _words(self, random: np.random.Generator, count: int) -> str:
        return " ".join(random.choice(WORDS, max(1, count)))

    def _text(self, random: np.random.Generator, tokens: int, fixed: float) -> str:
        return self._words(random, round((tokens - fixed) / self._per_word))

    def _prompt(self, random: np.random.Generator, text: str) -> _Prompt:
        if not self._chat:
            return text
        if self._image_size is None:
            return [{"role": "user", "content": text}]
        image = {"type": "image_url", "image_url": {"url": random_image_url(random, *self._image_size)}}
        return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]

    def _ask(self, prompt: _Prompt, new_tokens: int, turn: int = 1) -> tuple[RequestTimes, str]:
        """The answer's times, or the failure's, and its text."""
        try:
            answer: Answer = self.client.complete(prompt, new_tokens)
        except ServerError as error:
            return RequestTimes(time.perf_counter(), turn=turn, error=str(error)), ""
        tokens = answer.times.input_tokens or _count_words(prompt)
        return replace(answer.times, input_tokens=tokens, turn=turn), answer.text

    def _random(self) -> np.random.Generator:
        """New prompts for each run: a server keeps the keys and values of those that it has seen."""
        return np.random.default_rng([self.plan.seed, time.monotonic_ns()])

    def _requests(self, sizes: Sequence[Size]) -> list[tuple[_Prompt, int]]:
        random = self._random()
        return [(self._prompt(random, self._text(random, size.input, self._fixed)), size.output) for size in sizes]

    def _together(self, count: int) -> list[RequestTimes]:
        requests = self._requests([Size(self.plan.isl, self.plan.osl)] * count)
        with ThreadPoolExecutor(len(requests)) as pool:
            return [times for times, _ in pool.map(lambda request: self._ask(*request), requests)]

    def _at_a_rate(self) -> list[RequestTimes]:
        """Requests that come whether or not earlier ones are done, at most ``batch`` at once."""
        plan = self.plan
        requests = self._requests(plan.sizes(2**31))
        start, pending = time.perf_counter(), []
        with ThreadPoolExecutor(min(plan.batch, len(requests))) as pool:
            for due, request in zip(plan.arrival_times(), requests, strict=True):
                time.sleep(max(0.0, start + due - time.perf_counter()))
                pending.append(pool.submit(self._ask, *request))
        return [each.result()[0] for each in pending]

    def _conversations(self) -> list[RequestTimes]:
        random = self._random()
        prefix = self._text(random, self.plan.prefix, self._fixed) if self.plan.prefix else ""
        seeds = [np.random.default_rng(int(random.integers(2**31))) for _ in range(self.plan.batch)]
        with ThreadPoolExecutor(len(seeds)) as pool:
            return [times for own in pool.map(lambda seed: self._conversation(seed, prefix), seeds) for times in own]

    def _conversation(self, random: np.random.Generator, prefix: str) -> list[RequestTimes]:
        found: list[RequestTimes] = []
        messages, text = ([{"role": "system", "content": prefix}] if prefix else []), prefix
        for turn in range(1, self.plan.turns + 1):
            asked = self._text(random, self.plan.isl, 0.0)
            messages.append({"role": "user", "content": asked})
            text = f"{text} {asked}".strip()
            times, answer = self._ask(list(messages) if self._chat else text, self.plan.osl, turn)
            found.append(times)
            if times.error is not None:
                break
            messages.append({"role": "assistant", "content": answer})
            text += answer
        return found
