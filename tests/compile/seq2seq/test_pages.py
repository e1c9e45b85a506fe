"""Pages to text, as Donut, Nougat and TrOCR read them, from an image file on."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch

from tests.compile.seq2seq.seq2seqs import answers, compiled, wanted
from tests.models.tiny_seq2seq import save_seq2seq, tiny_page_reader
from tests.runtime.seq2seq.test_page import page
from tt_edge.cli import main
from tt_edge.compile.files import HostFiles
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.seq2seq.page import PageProcessor
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.text.tokenizer import BundleTokenizer


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("nougat", {}),
        ("nougat", {"backend": "sdpa"}),
        ("trocr", {}),
        ("trocr", {"backend": "sdpa", "cache": "static_v1"}),
        ("trocr_sinusoidal", {}),
    ],
)
def test_pixels_to_tokens(kind, form):
    model = tiny_page_reader(kind)
    model.generation_config.eos_token_id = None
    parts = compiled(model, **form)
    shape = parts[0].contract.inputs[0].resolve(batch=1)[1:]
    generator = np.random.default_rng(0)
    sources = [generator.standard_normal(shape).astype(np.float32) for _ in range(4)]
    search = {"max_new_tokens": 20, "no_repeat_ngram_size": 2}
    got = answers(parts, [2], sources, **search)
    assert got == [wanted(model, source, "pixel_values", **search) for source in sources]
    assert all(len(set(tokens)) > 4 for tokens in got)


def test_a_page_of_two_places():
    """Fewer than a text may have."""
    model = tiny_page_reader("trocr", image_size=8)
    model.generation_config.eos_token_id = None
    source = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    parts = compiled(model)
    assert parts[0].contract.max_source_len == 2
    assert answers(parts, [2], [source], max_new_tokens=8) == [wanted(model, source, "pixel_values", max_new_tokens=8)]


def test_a_processor_that_is_not_there():
    """The bundle takes pixels, and says whose."""
    encoder, _ = compiled(tiny_page_reader("trocr"))
    network = ReferenceFeedForward(encoder.network, encoder.contract)
    files = HostFiles({
        "generation_config.json": b'{"decoder_start_token_id": 2}',
        "preprocessor_config.json": b'{"image_processor_type": "PPFormulaNetImageProcessor"}',
    })  # fmt: skip
    pipeline = SourcePipeline.from_bundle(files, network)
    assert pipeline.source(np.zeros((3, 32, 32), np.float32)).length == 17
    with pytest.raises(InvalidInputError, match=r"type PPFormulaNetImageProcessor are not prepared here"):
        pipeline.page(page(20, 20))


def test_an_image_file_to_text(tmp_path, capsys):
    from PIL import Image
    from transformers import DonutImageProcessor

    model = tiny_page_reader("donut")
    checkpoint, bundle, file = tmp_path / "donut", tmp_path / "donut.ttedge", tmp_path / "page.png"
    save_seq2seq(model, checkpoint)
    processor = DonutImageProcessor(size={"height": 32, "width": 64})
    processor.save_pretrained(checkpoint)
    Image.fromarray(page(48, 90)).save(file)
    options = ["--precision", "fp32", "--max-batch", "2", "--max-seq-len", "40"]
    assert main(["compile", str(checkpoint), "-o", str(bundle), *options]) == 0
    assert main(["verify", str(bundle), "--model", str(checkpoint), "--new-tokens", "10"]) == 0
    pixels = processor(page(48, 90), return_tensors="pt")["pixel_values"]
    for prompt, start, beams in (([], [2], 1), (["--prompt", "w30 w31"], [30, 31], 1), ([], [2], 2)):
        capsys.readouterr()
        asked = ["--max-new-tokens", "12", "--json", *(["--num-beams", str(beams)] if beams > 1 else [])]
        assert main(["run", str(bundle), "--image", str(file), *prompt, *asked]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        out = model.generate(
            pixels, decoder_input_ids=torch.tensor([start]), max_new_tokens=12, do_sample=False, num_beams=beams
        )
        assert answer["input_ids"] == start
        assert out[0].tolist()[: len(start)] == start
        assert answer["new_token_ids"] == out[0].tolist()[len(start) :]
    own = [
        f"w{token}"
        for token in model.generate(pixels, max_new_tokens=39, do_sample=False)[0, 1:].tolist()
        if token != 2
    ]
    wrong = " ".join(own)[:-1]
    (tmp_path / "q.jsonl").write_text(json.dumps({"images": ["page.png"], "answer": wrong}))
    asked = ["--data", str(tmp_path / "q.jsonl"), "--model", str(checkpoint), "--json"]
    assert main(["eval", str(bundle), *asked]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["network"]["character_error_rate"] == 1 / len(wrong)
    assert row["network"]["exact"] == 0
    assert row["network"].keys() == row["pytorch"].keys()
    assert row["pytorch"]["character_error_rate"] == 1 / len(wrong)
    for arguments, message in (
        (["--prompt", "w4"], "the model reads one page, and there are 0 images"),
        (["--image", str(file), "--image", str(file)], "the model reads one page, and there are 2 images"),
        (["--prompt", "w4", "--video", "a.mp4"], "the model reads one page, and there is a video"),
    ):
        assert main(["run", str(bundle), *arguments])
        assert message in capsys.readouterr().err


def test_a_page_over_http(tmp_path):
    """OpenAI's own client sends an image; what the answer begins with is the message's text."""
    openai = pytest.importorskip("openai")
    from PIL import Image

    from tests.server.conftest import serving_llm

    model, processor = tiny_page_reader("donut"), PageProcessor((32, 64), (0.5,) * 3, (0.5,) * 3, 2, 2)
    encoder, decoder = compiled(model)
    save_seq2seq(model, tmp_path)
    tokenizer = BundleTokenizer.from_bundle(HostFiles.of_folder(tmp_path))
    network = ReferenceFeedForward(encoder.network, encoder.contract)
    pipeline = SourcePipeline(network, DecoderStart(2), pages=processor)
    session = ReferenceSession(decoder.network, decoder.contract)
    file = io.BytesIO()
    Image.fromarray(page(48, 90)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    with serving_llm(LLM(session, tokenizer, name="tiny", source=pipeline)) as served, served.client() as client:
        for parts, prompt in (([picture], ""), ([{"type": "text", "text": "w30 w31"}, picture], "w30 w31")):
            want = served.model.llm.generate([prompt], GenerationConfig(12), images=[[file.getvalue()]])[0]
            found = client.chat.completions.create(
                model="tiny", max_tokens=12, messages=[{"role": "user", "content": parts}]
            )
            assert found.choices[0].message.content == want.text
        assert client.models.list().data[0].model_extra["input_modalities"] == ["text", "image"]
        small = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        for messages, message in (
            ([{"role": "user", "content": "w4"}], "the model reads one page, and there are 0 images"),
            ([{"role": "user", "content": [picture, picture]}], "the model reads one page, and there are 2 images"),
            ([{"role": "user", "content": [small]}], "the model reads pages in one size; omit detail"),
            ([{"role": "user", "content": [picture]}] * 2, "there are 2 messages; give one message of the user"),
            ([{"role": "user", "content": [{**picture, "image_url": {"url": url[:-40]}}]}], "truncated"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                client.chat.completions.create(model="tiny", max_tokens=12, messages=messages)
