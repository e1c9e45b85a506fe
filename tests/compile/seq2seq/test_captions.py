"""BLIP's captions: equal to those of its own ``generate()``, from an image file on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipImageProcessor

from tests.compile.seq2seq.seq2seqs import answers, compiled
from tests.models.tiny_seq2seq import save_seq2seq, tiny_blip
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.cli import main
from tt_edge.compile.seq2seq.captioner import as_encoder_decoder

NEW = 12
SEARCH = {"max_new_tokens": NEW, "no_repeat_ngram_size": 2}


def theirs(model, pixels, ids=None, **search):
    """New tokens by BLIP's own ``generate()``; it leaves out the last of the ``ids`` that a processor makes of a prompt."""
    given = None if ids is None else torch.tensor([[*ids, 2]])
    out = model.generate(torch.from_numpy(pixels)[None], given, do_sample=False, num_beams=1, **search)[0].tolist()
    return out[1 if ids is None else len(ids) :]


@pytest.mark.parametrize("form", [{}, {"backend": "sdpa"}, {"backend": "sdpa", "cache": "static_v1"}], ids=str)
def test_pixels_to_tokens(form):
    """A batch, with and without words that a caption begins with. Its weights are what they were before it is joined."""
    model = tiny_blip()
    model.config.text_config.sep_token_id = None  # go on to the end
    pixels = [np.random.default_rng(seed).standard_normal((3, 32, 32)).astype(np.float32) for seed in range(4)]
    begins = [97, 20, 30]
    want = (
        [theirs(model, each, **SEARCH) for each in pixels],
        [theirs(model, each, begins, **SEARCH) for each in pixels],
    )
    assert len({tuple(each) for each in want[0]}) > 1
    parts = compiled(as_encoder_decoder(model), **form)
    assert answers(parts, [97], pixels, **SEARCH) == want[0]
    assert answers(parts, begins, pixels, **SEARCH) == want[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip") / "checkpoint"
    save_seq2seq(tiny_blip(), folder, eos=2)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_an_image_file_to_a_caption(checkpoint, tmp_path, capsys):
    bundle, file = tmp_path / "blip.ttedge", tmp_path / "photo.png"
    Image.fromarray(photo(48, 90)).save(file)
    assert main(["compile", str(checkpoint), "-o", str(bundle), "--precision", "fp32", "--max-seq-len", "40"]) == 0
    assert main(["verify", str(bundle), "--model", str(checkpoint), "--new-tokens", "10"]) == 0
    model = BlipForConditionalGeneration.from_pretrained(checkpoint)
    processor = BlipImageProcessor.from_pretrained(checkpoint)
    pixels = processor(photo(48, 90), return_tensors="np")["pixel_values"][0]
    for prompt, start in (([], [97]), (["--prompt", "w30 w31"], [97, 30, 31])):
        capsys.readouterr()
        assert main(["run", str(bundle), "--image", str(file), *prompt, "--max-new-tokens", str(NEW), "--json"]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        assert answer["input_ids"] == start
        assert answer["new_token_ids"] == theirs(model, pixels, start, max_new_tokens=NEW)


def test_other_tasks_are_refused(checkpoint, tmp_path, capsys):
    """A model that answers questions has all weights of one that writes captions, and others."""
    settings = json.loads((checkpoint / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in checkpoint.iterdir():
        (other / file.name).symlink_to(file)
    (other / "config.json").unlink()
    (other / "config.json").write_text(json.dumps(settings | {"architectures": ["BlipForQuestionAnswering"]}))
    assert main(["compile", str(other), "-o", str(tmp_path / "out.ttedge")])
    assert "BlipForQuestionAnswering is no BlipForConditionalGeneration" in capsys.readouterr().err


def test_captions_are_scored_with_the_words_that_they_begin_with(checkpoint, tmp_path, capsys):
    """What the sequence has room for follows the first token and these words, as a prompt or in a chat."""
    bundle, file = tmp_path / "blip.ttedge", tmp_path / "photo.png"
    Image.fromarray(photo(48, 90)).save(file)
    assert main(["compile", str(checkpoint), "-o", str(bundle), "--precision", "fp32", "--max-seq-len", "24"]) == 0
    parts = [{"type": "image"}, {"type": "text", "text": "w30 w31"}]
    lines = [
        {"images": ["photo.png"], "answer": "w5"},
        {"images": ["photo.png"], "prompt": "w30 w31", "answer": "w5"},
        {"images": ["photo.png"], "messages": [{"role": "user", "content": parts}], "answer": "w5"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    capsys.readouterr()
    assert main(["eval", str(bundle), "--data", str(tmp_path / "q.jsonl"), "--model", str(checkpoint), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["network"]["character_error_rate"] > 0
