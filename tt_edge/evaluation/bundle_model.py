"""A loaded bundle that answers items."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tt_edge.bundle import Bundle
from tt_edge.errors import CapacityError, InvalidInputError, TTEdgeError
from tt_edge.evaluation.requests import Answer, Item, Score
from tt_edge.evaluation.scoring import Target, score
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.text.completion import EncodedPrompt, TextRequest

#: Items of a group for each batch slot: generated and scored; at least, and at most, for others.
_BOTH, _LEAST, _MOST = 8, 16, 64


class BundleModel:
    """``llm`` answers items: greedily, and with log-probabilities. ``identity`` is ``identity_of`` its bundle."""

    def __init__(self, llm: LLM, identity: str) -> None:
        self.llm = llm
        self.identity = identity

    @property
    def word(self) -> str:
        return self.llm.session.word

    @property
    def key(self) -> str:
        return f"{self.identity} {self.word}"

    def check(self, items: Sequence[Item]) -> None:
        """Raise ``CapacityError`` for the longest of ``items`` that does not fit, and what encoding raises."""
        if self.llm.source is not None:
            return  # the length of an answer's beginning says little; sources are checked as they are encoded
        limit, longest = self.llm.session.contract.max_seq_len, (0, "")
        for item in items:
            if item.ask.images:
                continue
            tokens = len(self.prompt_ids(item)) + (item.generate.max_new_tokens if item.generate else 0)
            if item.score is not None:
                tokens = max(tokens, len(self._target(item, item.score).fed))
            longest = max(longest, (tokens, item.where))
        if longest[0] > limit:
            raise CapacityError(
                f"{longest[1]} needs {longest[0]} tokens, the most of the data, and max_seq_len is {limit}; compile with "
                f"--max-seq-len {longest[0]} or more"
            )

    def groups(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """``items`` in groups of consecutive ones. The answers to a group do not depend on what else is asked: they are the same
        to the last bit in another process, on a machine of the same kind. (A token's logits may depend on what is
        in the batch with it.)

        Groups of items that are both generated and scored are small, so that answers come all the time. Others go on while
        items are of the same ``Item.groups``, as subjects of MMLU, whose prompts begin alike.
        """
        items = sorted(items, key=lambda item: item.kind)
        first, batch = 0, self.llm.session.contract.max_batch
        for at in range(1, len(items) + 1):
            last, size = items[at - 1], at - first
            if at < len(items) and items[at].kind == last.kind:
                alike = bool(last.groups) and items[at].groups == last.groups
                if size < batch * (_BOTH if last.kind == (True, True) else _MOST if alike else _LEAST):
                    continue
            yield items[first:at]
            first = at

    def answers(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        """Group by group."""
        for group in self.groups(items):
            self.llm.scheduler.forget()
            generates, scores = group[0].kind
            texts = {}
            for item, text in self._generated(group) if generates else ():
                if scores:
                    texts[item.id] = text
                else:
                    yield item, Answer(text)
            for item, answer in self._scored(group) if scores else ():
                yield item, replace(answer, text=texts.get(item.id))

    def prompt_ids(self, item: Item) -> list[int]:
        """Token ids of a prompt without images."""
        if item.ask.ids:
            return list(item.ask.ids)
        prompt = item.ask.prompt_of(self.llm)
        return self.llm.tokenizer.encode(prompt.text, add_special_tokens=prompt.add_special_tokens)

    def _encoded(self, item: Item) -> EncodedPrompt:
        try:
            if item.ask.speech is not None:
                return self.llm.encode(item.ask.speech)
            if item.ask.ids:
                return self.llm.encoded_ids(item.ask.ids)
            return self.llm.encode(item.ask.prompt_of(self.llm))
        except TTEdgeError as error:
            raise type(error)(f"{item.where}: {error}") from error

    def _generated(self, items: Sequence[Item]) -> Iterator[tuple[Item, str]]:
        """The scheduler always has requests waiting, and few prompts are encoded ahead."""
        scheduler, waiting = self.llm.scheduler, deque(items)
        running: list[tuple[Item, TextRequest]] = []
        try:
            while waiting or running:
                while waiting and len(running) < 2 * self.llm.session.contract.max_batch:
                    running.append(self._submitted(waiting.popleft()))
                for _ in scheduler.steps(_any_done(running)):
                    pass
                for item, request in [pair for pair in running if pair[1].request.is_done]:
                    running.remove((item, request))
                    yield item, request.completion().text
        finally:
            for _, request in running:
                request.request.cancel()

    def _submitted(self, item: Item) -> tuple[Item, TextRequest]:
        assert item.generate is not None
        given: dict[str, Any] = {"max_new_tokens": item.generate.max_new_tokens, "stop": item.generate.stop}
        # Without its forced and suppressed tokens, an encoder-decoder may answer in another language.
        config = GenerationConfig(**given) if self.llm.source is None else self.llm.config(temperature=0.0, **given)
        request = self.llm.text_request(self._encoded(item), config)
        self.llm.scheduler.check(request.request, item.where)
        self.llm.scheduler.submit(request.request)
        return item, request

    def _scored(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        targets = (self._target(item, item.score) for item in items if item.score is not None)
        try:
            for number, found in score(self.llm.session, targets):
                answer = Answer(
                    logprob=float(found.logprobs.sum()),
                    tokens=len(found.logprobs),
                    greedy=found.greedy,
                    choices=tuple(found.choices.tolist()),
                )
                yield items[number], answer
        finally:
            self.llm.scheduler.forget()  # its slots no longer hold what it knows of

    def _target(self, item: Item, wanted: Score) -> Target:
        prompt = self._encoded(item)
        encode = self.llm.tokenizer.encode
        continuation = wanted.continuation
        if isinstance(continuation, str):
            continuation = tuple(encode(continuation, add_special_tokens=False)) if continuation else ()
        choices = choice_ids(lambda text: encode(text, add_special_tokens=False), item.ask.prompt, wanted.choices)
        ids, forced = list(prompt.ids), self.llm.generation_defaults.forced_bos_token_id
        if prompt.source is not None and len(ids) == 1 and forced is not None:
            ids.append(forced)
        return Target(ids, continuation, choices, prompt.images, prompt.source, item.where)


def _any_done(running: Sequence[tuple[Item, TextRequest]]) -> Callable[[], bool]:
    return lambda: any(request.request.is_done for _, request in running)


def choice_ids(encode: Callable[[str], list[int]], prompt: str, choices: Sequence[str]) -> tuple[int, ...]:
    """The one token that each of ``choices`` adds to ``prompt``'s last word.

    Raises ``InvalidInputError`` for a tokenizer that makes more of a choice, or the same of two.
    """
    words = prompt.split()
    if not choices or not words:
        return ()
    before = encode(words[-1])
    found = [encode(words[-1] + choice) for choice in choices]
    if any(ids[:-1] != before for ids in found) or len({ids[-1] for ids in found}) < len(found):
        raise InvalidInputError(
            f"the tokenizer does not give each of {', '.join(map(repr, choices))} a token of its own, so that the model cannot "
            "be scored by them; evaluate with generated answers instead"
        )
    return tuple(ids[-1] for ids in found)


def identity_of(bundle: Bundle) -> str:
    """What tells a model from another: its files, without engines and golden sets, which are added later."""
    files = bundle.manifest.files.items()
    kept = sorted((name, file.sha256) for name, file in files if not re.search(r"(^|/)(engines/|golden)", name))
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
