"""A conversation of several turns. What was said before stays in the KV cache, so a turn costs what is new in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tt_edge.errors import CapacityError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.preprocess import ImageSource, images_of
from tt_edge.runtime.text.chat_template import Message
from tt_edge.runtime.text.completion import Completion, Delta


class Conversation:
    """Messages so far, and the next answer. An answer that is stopped stays, as far as it came."""

    def __init__(self, llm: LLM, system: str | None = None, config: GenerationConfig | None = None) -> None:
        self._llm = llm
        self.config = config or GenerationConfig()
        self.system = system
        self.turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    def reset(self) -> None:
        """Forget all turns, but not the system prompt."""
        self.turns.clear()

    def say(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
        images: Sequence[ImageSource] = (),
    ) -> Completion:
        """The answer to ``text``, behind ``images``, of at most ``config.max_new_tokens`` or as many as there is room for.

        ``stopped`` is asked between tokens whether to end the answer. Raises ``CapacityError`` when there is no room
        for an answer, and ``InvalidInputError`` for images that cannot be taken; then the turn is not taken up.
        """
        parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        asked: list[Message] = [*self.messages, {"role": "user", "content": parts if images else text}]
        prompt = self._llm.apply_chat_template(asked)

        def on_delta(delta: Delta) -> None:
            if on_text is not None and delta.text:
                on_text(delta.text)

        request = self._llm.text_request(
            prompt, self.config, on_delta, add_special_tokens=False, images=images_of(asked)
        )
        room = self._llm.session.contract.max_seq_len - len(request.request.prompt_ids)
        if room < 1:
            raise CapacityError(
                f"the conversation has {len(request.request.prompt_ids)} tokens, and the model takes "
                f"{self._llm.session.contract.max_seq_len}; start over (/reset) or compile with a larger --max-seq-len"
            )
        request.request.config = dataclasses.replace(
            request.request.config, max_new_tokens=min(room, self.config.max_new_tokens)
        )
        scheduler = self._llm.scheduler
        scheduler.submit(request.request)
        try:
            while not request.request.is_done:
                if stopped():
                    request.request.cancel()
                scheduler.step()
        finally:
            request.request.cancel()
        completion = request.completion()
        self.turns = [*asked[bool(self.system) :], {"role": "assistant", "content": completion.text}]
        return completion
