"""OpenAI's own client sends speech, and gets what the Python API writes down."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.models.speech import SECONDS, speech_llm
from tests.runtime.audio.test_load import wav
from tests.server.conftest import serving, serving_llm
from tt_edge.runtime.audio import load_audio
from tt_edge.runtime.seq2seq.source import Speech
from tt_edge.server.errors import ApiError
from tt_edge.server.parsing.bodies import HeldBytes
from tt_edge.server.transcriptions import read_transcription

openai = pytest.importorskip("openai")
TOKENS = 40


def recording(seconds: float, seed: int = 0, rate: int = 16_000) -> bytes:
    samples = np.random.default_rng(seed).standard_normal((int(16_000 * seconds), 1))
    return wav(2, np.clip(0.3 * samples, -1, 1), rate)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return speech_llm(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def served(llm, tmp_path_factory):
    with serving_llm(speech_llm(tmp_path_factory.mktemp("speech"), name="tiny")) as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with served.client() as client:
        yield client


def written_down(llm, content: bytes, timestamps: bool | None = None, **asked):
    speech = Speech(load_audio(content), **{"task": "transcribe", **asked})
    start = llm.sources.start_of(speech, timestamps=bool(timestamps))
    config = llm.config(max_new_tokens=llm.session.contract.max_seq_len - len(start), logprobs=0)
    return llm.transcribe(speech, config, timestamps=timestamps)


def test_text(client, llm):
    content = recording(0.7 * SECONDS)
    want = written_down(llm, content).text.strip()
    asked = {"model": "tiny", "file": ("a.wav", content)}
    found = client.audio.transcriptions.create(**asked)
    assert found.text == want
    assert found.usage.seconds == math.ceil(0.7 * SECONDS)
    assert client.audio.transcriptions.create(**asked, response_format="text").strip() == want
    named = client.audio.transcriptions.create(**asked, language="german", prompt="w30 w31", temperature=0)
    assert named.text == written_down(llm, content, language="de", prompt="w30 w31").text.strip()
    english = client.audio.translations.create(**asked)
    assert english.text == written_down(llm, content, task="translate").text.strip()
    assert len({want, named.text, english.text}) == 3


def test_times_of_long_speech(client, llm):
    content = recording(2.6 * SECONDS)
    want = written_down(llm, content, timestamps=True)
    asked = {"model": "tiny", "file": ("a.wav", content)}
    found = client.audio.transcriptions.create(
        **asked, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert (found.text, found.language) == (want.text.strip(), want.language)
    assert found.duration == pytest.approx(2.6 * SECONDS)
    assert [(s.start, s.end, s.text, s.tokens, s.seek) for s in found.segments] == [
        (s.start, s.end, s.text, s.token_ids, s.seek) for s in want.segments
    ]
    assert all(s.avg_logprob == pytest.approx(w.logprob) for s, w in zip(found.segments, want.segments, strict=True))
    assert len({s.seek for s in found.segments}) > 1
    # Without times in the answer, speech that is longer than a window needs them all the same.
    assert client.audio.transcriptions.create(**asked).text == want.text.strip()
    spoken = [s for s in want.segments if s.text.strip()]
    srt = client.audio.transcriptions.create(**asked, response_format="srt")
    vtt = client.audio.transcriptions.create(**asked, response_format="vtt")
    cues = re.findall(r"^(\d+)\n(\d\d):(\d\d):(\d\d),(\d{3}) --> .*\n(.*)\n\n", srt, re.M)
    assert [(int(c[0]), int(c[3]) + int(c[4]) / 1000, c[5]) for c in cues] == [
        (place, pytest.approx(s.start, abs=1e-3), s.text.strip()) for place, s in enumerate(spoken, 1)
    ]
    assert vtt.startswith("WEBVTT\n\n00:00:")
    assert vtt.count(" --> ") == len(spoken)


def test_another_sampling_rate(client, llm):
    content = recording(0.3, rate=44_100)
    found = client.audio.transcriptions.create(model="tiny", file=("a.wav", content))
    assert found.text == written_down(llm, content).text.strip()


def test_other_formats(client, llm):
    soundfile = pytest.importorskip("soundfile")
    content = recording(0.5 * SECONDS)
    samples, rate = soundfile.read(io.BytesIO(content))
    flac = io.BytesIO()
    soundfile.write(flac, samples, rate, format="FLAC")
    found = client.audio.transcriptions.create(model="tiny", file=("a.flac", flac.getvalue()))
    assert found.text == written_down(llm, content).text.strip()


def test_models(client):
    assert client.models.list().data[0].model_extra["input_modalities"] == ["audio"]


BOUNDARY = "----x"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


def form(**fields: str | bytes) -> bytes:
    parts = []
    for name, value in fields.items():
        file = "; filename=a.wav" if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        parts.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content)
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def post(url: str, body: bytes, **headers: str) -> tuple[int, str]:
    names = {name.replace("_", "-"): value for name, value in {"Content_Type": KIND, **headers}.items()}
    asked = urllib.request.Request(url, body, names)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["message"]


SHORT = recording(0.2 * SECONDS)
GOOD = {"model": "tiny", "file": SHORT}


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (form(**GOOD), {"Content_Type": "application/json"}, 415, "is not multipart/form-data"),
        (form(**GOOD), {"Content_Type": "multipart/form-data"}, 400, "has no boundary"),
        (form(**GOOD)[:-20], {}, 400, "the form is cut off"),
        (b"hello", {}, 400, "the form is malformed"),
        (b"", {}, 400, "the form is cut off"),
        (form(**GOOD), {"Origin": "http://evil.example"}, 403, "comes from a page of another site"),
        (form(**GOOD), {"Sec_Fetch_Site": "cross-site"}, 403, "comes from a page of another site"),
        (form(model="tiny"), {}, 400, "needs one file of speech named file, and its files are none"),
        (form(file=SHORT), {}, 400, "model: Field required"),
        (form(**GOOD | {"model": "other"}), {}, 404, "model 'other' is not here"),
        (form(**GOOD, stream="true"), {}, 400, "stream is not supported with the value 'true'; omit it"),
        (form(**GOOD, what="1"), {}, 400, "what is not supported; omit it"),
        (form(**GOOD, temperature="hot"), {}, 400, "temperature is 'hot'; it must be a number from 0 to 1"),
        (form(**GOOD, response_format="xml"), {}, 400, "response_format 'xml' is not supported; choose one of json"),
        (form(**GOOD, language="xx"), {}, 400, "language 'xx' is unknown"),
        (form(**GOOD, prompt="w1 </s>"), {}, 400, "the prompt has the special token </s>; omit it"),
        (form(model="tiny", file="RIFF"), {}, 400, "file is sent without a filename; send it as a file"),
        (form(**GOOD, prompt="w" * 70_000), {}, 400, "prompt has more than 65536 bytes"),
        (form(**{f"f{i}": "" for i in range(100)}), {}, 400, "more than 64 fields"),
        (form(model="tiny", file=b"RIFF\0\0\0\0WAVE"), {}, 400, "is no"),
        (form(model="tiny", file=recording(0.2, rate=44_101)), {}, 400, "has 44101 samples per second, which is not converted"),
        (form(model="tiny", file=b""), {}, 400, "is no"),
    ],
)  # fmt: skip
def test_what_is_refused(served, body, headers, status, message):
    code, text = post(f"{served.url}/v1/audio/transcriptions", body, **headers)
    assert (code, message in text) == (status, True), text
    assert "\n" not in text


def test_a_page_of_this_server_may_send_forms(served):
    host = served.url.removeprefix("http://")
    code, _ = post(f"{served.url}/v1/audio/transcriptions", form(**GOOD), Origin=f"http://{host}")
    assert code == 200


def test_translations_have_no_language(served):
    code, text = post(f"{served.url}/v1/audio/translations", form(**GOOD, language="de"))
    assert (code, "language is not supported" in text) == (400, True)


def test_speech_longer_than_the_server_takes(served, monkeypatch):
    # The child process has its own limits: a header alone says how long the speech is.
    code, text = post(f"{served.url}/v1/audio/transcriptions", form(model="tiny", file=wav(1, np.zeros((1801, 1)), 1)))
    assert (code, "is longer than 1800 s; cut it" in text) == (400, True), text


def test_another_format_where_nothing_reads_it(llm, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ApiError, match="this server reads no other; send one") as caught:
        read_transcription(
            form(model="tiny", file=b"fLaC"),
            content_type=KIND,
            extractor=llm.source.speech_features(),
            task="transcribe",
        )
    assert caught.value.status == 415


def test_what_has_begun_is_written_down_to_its_end(served, llm, monkeypatch):
    """Others fill the queue after the first window."""
    content = recording(2.6 * SECONDS)
    streams = served.model.streams

    def full_from_then_on(prompts, **settings):
        found = streams(prompts, **settings)
        monkeypatch.setattr(served.model, "max_waiting", -100)
        return found

    monkeypatch.setattr(served.model, "streams", full_from_then_on)
    code, text = post(f"{served.url}/v1/audio/transcriptions", form(model="tiny", file=content))
    assert (code, json.loads(text)["text"]) == (200, written_down(llm, content).text.strip())
    assert post(f"{served.url}/v1/audio/transcriptions", form(**GOOD))[0] == 400, "nothing else is taken"


def test_features_of_speech_count_among_the_bytes_that_are_held(served, monkeypatch):
    """A small file may hold long speech."""
    counted, add = [], HeldBytes.add
    monkeypatch.setattr(HeldBytes, "add", lambda held, count: (counted.append((held, count)), add(held, count))[1])
    code, _ = post(f"{served.url}/v1/audio/transcriptions", form(model="tiny", file=wav(1, np.zeros((10, 1)), 1)))
    assert code == 200
    assert sum(count for _, count in counted) == 10 * 100 * 16 * 4  # 16 float32 for each 10 ms
    assert counted[0][0]._held == 0


def test_a_language_model_takes_no_speech(folder):
    with serving(folder) as served:
        code, text = post(f"{served.url}/v1/audio/transcriptions", form(**GOOD))
    assert (code, "takes no speech; serve a speech model" in text) == (400, True)
