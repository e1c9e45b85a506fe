"""EleutherAI's lm-evaluation-harness on a bundle: its model ``tt_edge``. Needs ``pip install 'tt-edge[lm-eval]'``, and no PyTorch.

The harness does not look for models of other packages, so this module registers its own and then runs the harness's command:

    python -m tt_edge.evaluation.lm_eval --model tt_edge --model_args bundle=OUT.ttedge --tasks TASK

takes all that ``lm_eval`` takes. In a program, importing this module is enough: ``lm_eval.simple_evaluate(model="tt_edge",
model_args={"bundle": "OUT.ttedge"}, tasks=[…])``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tt_edge.errors import CapacityError, InvalidInputError, MissingDependencyError
from tt_edge.evaluation.formats.perplexity import prefix_token, rolling_windows
from tt_edge.evaluation.scoring import Target, TokenScores, score
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
except ImportError as error:
    raise MissingDependencyError(f"the harness is not installed ({error}); pip install 'tt-edge[lm-eval]'") from error

#: New tokens of an answer whose task sets no limit: the harness's own default.
MAX_GEN_TOKS = 256


class BundleLM(TemplateLM):  # type: ignore[misc]
    """The bundle at the path ``bundle``.

    Texts that are longer than ``max_length`` tokens (default: the bundle's ``max_seq_len``) lose their beginning, as with the
    harness's own models. Log-likelihoods are exact for every bundle; one that was compiled with ``--full-logits`` needs one
    step where others need one per token of the continuation. ``batch_size`` and ``device`` are the harness's own and have no
    effect: the bundle has its batch and its device.
    """

    def __init__(
        self,
        bundle: str,
        runtime: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int = MAX_GEN_TOKS,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        require_signature: str | None = None,
    ) -> None:
        super().__init__()
        self.llm = LLM.load(bundle, runtime, require_signature)
        if self.llm.source is not None:
            self.llm.close()
            raise InvalidInputError(
                "the bundle is of an encoder-decoder, and lm-eval's models continue their prompts; give one of a language model"
            )
        limit = self.llm.session.contract.max_seq_len
        self.max_length = limit if max_length is None else int(max_length)
        if not 1 <= self.max_length <= limit:
            raise CapacityError(
                f"max_length is {self.max_length}, and max_seq_len of the bundle {limit}; compile with "
                f"--max-seq-len {self.max_length}, or give 1 to {limit}"
            )
        self.max_gen_toks, self._add_bos = int(max_gen_toks), add_bos_token
        self._prefix = prefix_token(self.llm.tokenizer) if prefix_token_id is None else int(prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence token; without one, the token that texts begin with."""
        name = self.llm.tokenizer.special_tokens.get("eos_token")
        found = None if name is None else self.llm.tokenizer.backend.token_to_id(name)
        return self._prefix if found is None else int(found)

    @property
    def prefix_token_id(self) -> int:
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        return self.llm.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What tells the bundle's template from another; it has one, and other names are refused."""
        if isinstance(chat_template, str):
            raise InvalidInputError(f"chat template {chat_template!r} is unknown; the bundle has one, without a name")
        return self.llm.chat_template.source if chat_template and self.llm.chat_template is not None else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.llm.apply_chat_template(
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special tokens as the tokenizer adds them, but no second beginning."""
        if add_special_tokens is None:
            begins = has_bos_prefix(string, self.llm.tokenizer.decode([self._prefix], skip_special_tokens=False))
            add_special_tokens = not begins and self._add_bos is not False
        return self.llm.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        targets = []
        for _, context, continuation in requests:
            kept = max(self.max_length + 1 - len(continuation), 1)
            targets.append(Target(context[-kept:], continuation))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for number, scores in self._scored(targets):
            found[number] = float(scores.logprobs.sum()), scores.greedy
            if requests[number][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[number][0], found[number])
        return found

    def _scored(self, targets: Sequence[Target]) -> Iterator[tuple[int, TokenScores]]:
        """Those with a common beginning one after the other."""
        order = sorted(range(len(targets)), key=lambda number: targets[number].fed)
        try:
            for place, scores in score(self.llm.session, (targets[number] for number in order)):
                yield order[place], scores
        finally:
            self.llm.scheduler.forget()

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners = []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for before, targets in rolling_windows(ids, self._prefix, self.max_length, 1):
                windows.append((None, before, targets))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        prompts, configs = [], []
        for request in requests:
            context, given = request.args
            config, most = self._generation(given)
            room = self.max_length - most
            if room < 1:
                raise CapacityError(
                    f"max_gen_toks is {most}, and max_length {self.max_length}; lower max_gen_toks, or compile with a larger "
                    "--max-seq-len"
                )
            prompts.append(self.llm.encoded_ids(self.tok_encode(context)[-room:]))
            configs.append(config)
        asked = [self.llm.text_request(prompt, config) for prompt, config in zip(prompts, configs, strict=True)]
        for _ in self.llm.run(asked):
            pass
        texts = [request.completion().text for request in asked]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _generation(self, given: dict[str, Any]) -> tuple[GenerationConfig, int]:
        """The settings of a task, and how many new tokens. Raises ``InvalidInputError`` for settings that are not known."""
        settings = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        eos = self.llm.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        stop = tuple(text for text in handle_stop_sequences(settings.pop("until"), eos) if text)
        most, sampled = settings.pop("max_gen_toks"), settings.pop("do_sample", False)
        if not sampled:
            settings = {
                name: value for name, value in settings.items() if name not in ("temperature", "top_p", "top_k")
            }
        for name in settings:
            if name not in GenerationConfig.__dataclass_fields__:
                raise InvalidInputError(f"the task sets {name} {settings[name]!r}, which is not known; omit it")
        return GenerationConfig(max_new_tokens=most, stop=stop, **settings), most


def main() -> None:
    """The harness's command, with the model ``tt_edge``."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


register_model("tt_edge")(BundleLM)

if __name__ == "__main__":
    main()
