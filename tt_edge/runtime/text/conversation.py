"""A conversation of several turns. Earlier turns stay in the KV cache, so each turn computes only what is new in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tt_edge.errors import CapacityError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.sources import ImageSource
from tt_edge.runtime.text.chat_template import Message
from tt_edge.runtime.text.completion import Completion


class Conversation:
    """Messages so far, and the next answer. An answer that is stopped is kept as far as it came."""

    def __init__(self, llm: LLM, system: str | None = None, config: GenerationConfig | None = None) -> None:
        self._llm = llm
        self.config = config or llm.generation_defaults
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

        ``stopped`` is called between steps and says whether to end the answer. Raises ``CapacityError`` when there is no room
        for an answer, and ``InvalidInputError`` for images that cannot be taken; the conversation is then as before.
        """
        parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        asked: list[Message] = [*self.messages, {"role": "user", "content": parts if images else text}]
        request = self._llm.text_request(self._llm.render_chat(asked), self.config)
        room = self._llm.session.contract.max_seq_len - len(request.request.prompt_ids)
        if room < 1:
            raise CapacityError(
                f"the conversation has {len(request.request.prompt_ids)} tokens, and the model takes "
                f"{self._llm.session.contract.max_seq_len}; start over (/reset) or compile with a larger --max-seq-len"
            )
        request.request.config = dataclasses.replace(
            request.request.config, max_new_tokens=min(room, self.config.max_new_tokens)
        )
        for deltas in self._llm.run([request]):
            for _, delta in deltas:
                if on_text is not None and delta.text:
                    on_text(delta.text)
            if stopped():
                request.request.cancel()
        completion = request.completion()
        self.turns = [*asked[bool(self.system) :], {"role": "assistant", "content": completion.text}]
        return completion
