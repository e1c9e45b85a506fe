"""Taking the tokenizer, chat template and generation settings of a checkpoint along in the bundle."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.checkpoint_generation import not_applied
from tt_edge.compile.checkpoint.sentencepiece_tokenizers import converted, is_converted_here
from tt_edge.compile.checkpoint.silence import silent_transformers
from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.text.tokenizer_limits import broken_merge

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.checkpoint.checkpoint import Checkpoint

_LOGGER = logging.getLogger("tt_edge")

_TEMPLATE, _OLD_TEMPLATE = "chat_template.jinja", "chat_template.json"
#: Files that the runtime reads, where the checkpoint has them.
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", _TEMPLATE)
#: Vocabularies in SentencePiece's form, or tiktoken's under the same name.
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
#: Files of which one is there where a checkpoint has a tokenizer.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", *_SENTENCEPIECE)
#: What a vision-language model's preprocessing is made from.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


#: What an answer to speech begins with: languages, tasks and, in older checkpoints, the token ids themselves.
_SPEECH_SETTINGS = (
    "lang_to_id", "task_to_id", "no_timestamps_token_id", "max_initial_timestamp_index", "prev_sot_token_id", "language", "task",
    "forced_decoder_ids",
)  # fmt: skip


def tokenizer_files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """Name and content of each tokenizer file of a checkpoint, as transformers saves the tokenizer that it loads.

    So tokens that only ``tokenizer_config.json`` or ``added_tokens.json`` has are in ``tokenizer.json``, and a slow tokenizer
    (SentencePiece, tiktoken) is converted to one. A checkpoint without any tokenizer yields nothing: its bundle runs on token ids
    only. Raises ``InvalidInputError`` for a tokenizer that does not load, ``MissingDependencyError`` where a package is missing.
    """
    if has_tokenizer(checkpoint):
        yield from files_of(checkpoint.tokenizer, checkpoint.source)


def files_of(tokenizer: Any, source: str) -> Iterator[tuple[str, bytes]]:
    """As ``tokenizer_files``, of transformers' ``tokenizer`` of the checkpoint ``source``."""
    if is_converted_here(tokenizer):
        tokenizer = converted(tokenizer, source)
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInputError(
            f"the tokenizer of {source} has no tokenizer.json and cannot be converted to one; "
            "save it once with transformers' fast tokenizer and compile again"
        )
    if _cleans_up(tokenizer):
        _LOGGER.warning(
            "tokenizer_config.json: clean_up_tokenization_spaces not applied by tt-edge; answers keep their spaces before "
            "punctuation"
        )
    yield from saved_tokenizer(tokenizer)


def saved_tokenizer(tokenizer: Any, folder: str = "") -> Iterator[tuple[str, bytes]]:
    """Name (in ``folder``, which ends with ``/``) and content of each file that the runtime reads of a fast tokenizer."""
    with tempfile.TemporaryDirectory(prefix="tt-edge-tokenizer-") as scratch:
        tokenizer.save_pretrained(scratch)
        for name in _FILES:
            if (file := Path(scratch) / name).is_file():
                yield folder + name, file.read_bytes()


def _cleans_up(tokenizer: Any) -> bool:
    """Whether transformers removes spaces from decoded text: by default not of BPE, and a WordPiece decoder does it itself."""
    backend = tokenizer.backend_tokenizer
    if not tokenizer.clean_up_tokenization_spaces or getattr(backend.decoder, "cleanup", False):
        return False
    of_bpe = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return type(backend.model).__name__ != "BPE" or bool(getattr(tokenizer, of_bpe, False))


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether there is a vocabulary among its files, in any of the forms that transformers reads."""
    return any(checkpoint.has(name) for name in _VOCABULARIES) or any(checkpoint.folder.glob("*.tiktoken"))


def processor_files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """Name and content of a checkpoint's image processor settings, of which a language model has none.

    Older ones have the processor's chat template as ``chat_template.json``; it becomes ``chat_template.jinja``.
    """
    for name in _PROCESSOR_FILES:
        if checkpoint.has(name):
            yield name, checkpoint.read_bytes(name)
    if checkpoint.has(_OLD_TEMPLATE) and not checkpoint.has(_TEMPLATE):
        template = checkpoint.read_json(_OLD_TEMPLATE).get("chat_template")
        if not isinstance(template, str):
            raise InvalidInputError(
                f"{_OLD_TEMPLATE} of {checkpoint.source} holds no chat template; download the checkpoint again"
            )
        yield _TEMPLATE, template.encode()


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """transformers' tokenizer of a checkpoint.

    Raises ``InvalidInputError`` where it has none that loads, ``MissingDependencyError`` where a package to read it is missing.
    """
    from transformers import AutoTokenizer

    try:
        if (
            merge := broken_merge(checkpoint.read_json("tokenizer.json"))
        ) is not None:  # the library would end the process
            raise ValueError(f"the second part of the merge {merge[:80]} does not have its continuing_subword_prefix")
        with silent_transformers():  # which warns of a model type that it does not have, as Eagle 2's
            return AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare ones
        if type(error).__name__.startswith("StrictDataclass"):  # transformers reads config.json for it
            _ = checkpoint.config  # raises, and names the setting
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if not checkpoint.has("tokenizer.json") and (package := _missing_package(checkpoint, reason)):
            raise MissingDependencyError(
                f"the tokenizer of {checkpoint.source} is converted with the package {package}, which is not installed; "
                "pip install 'tt-edge[sentencepiece]'"
            ) from error
        raise InvalidInputError(
            f"the tokenizer of {checkpoint.source} does not load ({reason.rstrip('.')}); give another with --tokenizer"
        ) from error


def _missing_package(checkpoint: Checkpoint, reason: str) -> str | None:
    """The package that the checkpoint's vocabulary is read with, if it is not installed."""
    needed = ["sentencepiece", "google.protobuf"] if any(checkpoint.has(name) for name in _SENTENCEPIECE) else []
    if any(checkpoint.folder.glob("*.tiktoken")) or "tiktoken" in reason:  # Llama 3's tokenizer.model is tiktoken's
        needed.append("tiktoken")
    return next((name for name in needed if not _installed(name)), None)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def generation_settings(model: PreTrainedModel) -> bytes:
    """``generation_config.json``: the checkpoint's own, with the end-of-sequence ids that ``generate()`` would use.

    A warning names the settings that the runtime does not apply. Raises ``InvalidInputError`` for one with a value that it
    cannot have.
    """
    own = model.generation_config
    settings: dict[str, Any] = own.to_diff_dict()
    for name in ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(own, name, None)
        if value is None and not (name == "decoder_start_token_id" and own.bos_token_id is not None):
            value = getattr(model.config, name, None)  # where generate() does not begin with bos_token_id
        if value is not None:
            settings[name] = value
    if isinstance(start := settings.get("decoder_start_token_id"), list):  # one for each row of a batch
        if len(start) != 1:
            raise InvalidInputError(
                f"generation_config.json: decoder_start_token_id is {start}; give one token id, and compile again"
            )
        settings["decoder_start_token_id"] = start[0]
    is_speech = getattr(model, "main_input_name", None) == "input_features"
    if not is_speech:  # generate() of other models ignores it
        settings.pop("forced_decoder_ids", None)
    for name in _SPEECH_SETTINGS if is_speech else ():  # which transformers reads and does not write
        value = getattr(model.generation_config, name, None)
        value = getattr(model.config, name, None) if value is None else value
        if value is not None:
            settings[name] = value
    content = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    try:
        GenerationConfig.of_checkpoint(json.loads(content))
    except InvalidInputError as error:
        raise InvalidInputError(f"generation_config.json: {error}; mend or remove it") from error
    if left := not_applied(settings):
        _LOGGER.warning("generation_config.json: %s not applied by tt-edge", ", ".join(left))
    return content.encode()
