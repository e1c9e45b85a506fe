"""A tiny speech model with Whisper's settings, ready to write down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.compile.seq2seq.seq2seqs import compiled
from tests.models.tiny_seq2seq import save_seq2seq, tiny_seq2seq
from tt_edge.compile.checkpoint.tokenizer_files import generation_settings
from tt_edge.compile.files import HostFiles
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.audio.log_mel import LogMel
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.text.tokenizer import BundleTokenizer

#: Of one window.
SECONDS = 1


def speech_model() -> Any:
    """A multilingual model: words below 39, the end, languages, tasks, what comes before, and timestamps from 48 on."""
    model = tiny_seq2seq("whisper", eos_token_id=39)
    settings = model.generation_config
    settings.lang_to_id = {"<|en|>": 40, "<|de|>": 41, "<|fr|>": 42}
    settings.task_to_id = {"transcribe": 44, "translate": 45}
    settings.no_timestamps_token_id, settings.is_multilingual, settings.return_timestamps = 47, True, False
    settings.prev_sot_token_id, settings.max_initial_timestamp_index = 46, 20
    settings._from_model_config = False
    settings.suppress_tokens, settings.begin_suppress_tokens = [11, 12], [13, 14]
    return model


def speech_llm(folder: Path, **settings: Any) -> LLM:
    """The model as a bundle of it would be opened; ``folder`` is for its tokenizer."""
    model = speech_model()
    encoder, decoder = compiled(model)
    save_seq2seq(model, folder)
    generation = json.loads(generation_settings(model))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return LLM(
        ReferenceSession(decoder.network, decoder.contract),
        BundleTokenizer.from_bundle(HostFiles.of_folder(folder)),
        generation_defaults=GenerationConfig.of_checkpoint(generation),
        source=SourcePipeline(
            ReferenceFeedForward(encoder.network, encoder.contract),
            DecoderStart.from_settings(generation),
            LogMel(mels=16, seconds=SECONDS),
        ),
        **settings,
    )
