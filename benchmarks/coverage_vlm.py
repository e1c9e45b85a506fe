"""Vision-language models of transformers, made tiny: what ``coverage.py --kind vlm`` counts.

Candidates are the classes that transformers maps for images and text to text, but for encoder-decoders (``--kind seq2seq``). Each
is made tiny, with a processor, by ``tests/models/any_vlm.py`` (families with a file of their own: ``vlm_checkpoints.py``),
compiled, and compared with ``generate()`` on images, and on a video where it takes one, with the checkpoint's own processor.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.coverage import Outcome, one_line

_NEW_TOKENS = 6
#: Heights and widths of the images that are asked about.
_SIZES = ((60, 80), (57, 33), (41, 41))


def candidates() -> dict[str, str]:
    """Class names by model type."""
    from tests.models.any_vlm import candidates

    return candidates()


def attempt(name: str) -> Outcome:
    """Compile the model, and compare its greedy tokens with those of ``generate()``."""
    import torch

    from tests.models.any_vlm import tiny_config, write_any
    from tests.models.vlm_checkpoints import FOUND_TOKENS, PLACEHOLDERS, TOKENS, write_checkpoint

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, image = Path(scratch) / "checkpoint", None
        try:
            if name in TOKENS or name in FOUND_TOKENS:
                write_checkpoint(name, checkpoint)
                image = PLACEHOLDERS.get(name, "")
            elif tiny_config(name).is_encoder_decoder or name == "blip":  # whose configuration does not say it
                return Outcome("not made", "an encoder-decoder: --kind seq2seq")
            elif (outcome := _by_structure(name, "")).word == "refused":
                return outcome
            else:
                write_any(name, checkpoint)
        except Exception as error:
            return _by_structure(name, one_line(error))
        try:
            return _compared(checkpoint, Path(scratch) / "out.ttedge", image)
        except Exception as error:
            return Outcome("failed", one_line(error))


def _by_structure(name: str, reason: str) -> Outcome:
    """Of a model of which no whole checkpoint can be made: what its structure says, without weights."""
    import torch

    from tests.models.any_vlm import class_of, tiny_config
    from tt_edge.compile.export.features import check_features
    from tt_edge.compile.vision.families import family_of
    from tt_edge.errors import TTEdgeError

    try:
        with torch.device("meta"):
            model = class_of(name)._from_config(tiny_config(name))
    except Exception as error:
        return Outcome("not made", one_line(error))
    if not model.can_generate():
        return Outcome("not made", "it does not generate text")
    outcome = Outcome("not compared", reason)
    try:
        if family_of(model) is None:
            return Outcome("not made", "it is taken for a language model, which takes no images")
    except TTEdgeError as error:
        outcome = Outcome("refused", one_line(error))
    try:
        check_features(model.config, type(model).__name__)  # the reason that a compile would give first
    except TTEdgeError as error:
        outcome = Outcome("refused", one_line(error))
    return outcome


def _compared(checkpoint: Path, bundle: Path, image: str | None) -> Outcome:
    from PIL import Image

    from tests.runtime.multimodal.images.sample_images import photo
    from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.config import CompileConfig, EngineTarget, Precision
    from tt_edge.errors import TTEdgeError
    from tt_edge.generation_config import GenerationConfig
    from tt_edge.runtime import LLM
    from tt_edge.runtime.multimodal.sources import Video

    config = CompileConfig.of(precision="fp32", max_batch=1, max_input_len=448, max_seq_len=512, max_image_tokens=384)
    greedy = GenerationConfig(max_new_tokens=_NEW_TOKENS, ignore_eos=True)
    try:
        compile_checkpoint(str(checkpoint), bundle, config, EngineTarget())
    except TTEdgeError as error:
        does_not_load = "does not load" in str(error)  # its tiny configuration is none
        return Outcome("not compared" if does_not_load else "refused", one_line(error).replace(str(checkpoint), "X"))
    theirs = PyTorchVLM(checkpoint, Precision.FP32)
    with LLM.load(bundle, "reference") as llm:
        image = llm.vision.processor.placeholders.in_prompt if image is None else image
        for number, size in enumerate(_SIZES):
            images = [Image.fromarray(photo(*size, number))]
            prompt = f"{image}What is this?"
            [ours] = llm.generate([prompt], greedy, images=[images])
            inputs = theirs.inputs(llm, prompt, images)
            if list(ours.input_ids) != inputs["input_ids"][0].tolist():
                return Outcome("wrong", f"other prompt tokens for an image of {size}")
            if list(ours.new_token_ids) != theirs.continue_greedily(inputs, _NEW_TOKENS, eos_token_id=None):
                return Outcome("wrong", f"other tokens for an image of {size}")
        if llm.vision.processor.video_processor is None:
            why = llm.vision.processor.no_videos
            return Outcome("works", f"takes no videos: {why}" if why else "")
        # Of a slow video, Qwen2.5-VL's frames have later positions than the text behind, and generate() goes on from the text's.
        counted = getattr(llm.vision.processor.video_processor, "tokens_per_second", None)
        video = Video([photo(*_SIZES[0], number) for number in range(4)], fps=2.0 if counted else 0.1)
        prompt = f"{llm.vision.processor.placeholders.video_in_prompt}What happens?"
        [ours] = llm.generate([prompt], greedy, images=[[video]])
        inputs = theirs.inputs(llm, prompt, [video])
        if list(ours.input_ids) != inputs["input_ids"][0].tolist():
            return Outcome("wrong", "other prompt tokens for a video")
        if list(ours.new_token_ids) != theirs.continue_greedily(inputs, _NEW_TOKENS, eos_token_id=None):
            return Outcome("wrong", "other tokens for a video")
    return Outcome("works", "with videos")
