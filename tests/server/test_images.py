"""Images over HTTP: the answers of the Python API, what is refused, and that the server stays usable meanwhile."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from PIL import Image

from examples.road_scenes.evaluate import CHECKPOINT
from tests.runtime.multimodal.test_processor import gif
from tests.server.conftest import serving_llm
from tests.server.parsing.test_limits import get, post
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.choose import open_part
from tt_edge.runtime.llm import LLM
from tt_edge.server.parsing import bodies

pytestmark = pytest.mark.xdist_group("road scenes")

IMAGES = {path.stem: path for path in (CHECKPOINT.parent / "pictures").glob("*.png")}
QUESTION = "Describe the picture."
CONFIG = GenerationConfig(24)


def url_of(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image(name: str, **more) -> dict:
    url = url_of(IMAGES[name].read_bytes())
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(*parts) -> dict:
    return {"role": "user", "content": list(parts)}


@pytest.fixture(scope="module")
def served(road_bundle):
    with serving_llm(LLM.load(road_bundle, "reference")) as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def alone(road_bundle):
    """What the Python API answers to parts of one message."""
    with LLM.load(road_bundle, "reference") as llm:

        def answer(*turns):
            return llm.chat([user(*parts) if isinstance(parts, tuple) else parts for parts in turns], CONFIG).text

        yield answer


def ask(client, messages, **more):
    return client.chat.completions.create(model="road", messages=messages, max_tokens=24, temperature=0, **more)


@pytest.mark.parametrize("name", IMAGES)
def test_answers_are_the_python_apis(client, alone, name):
    answer = ask(client, [user(image(name, detail="high"), text(QUESTION))])
    assert answer.choices[0].message.content == alone((image(name), text(QUESTION)))
    assert answer.usage.prompt_tokens > 40, "image tokens count"


def test_a_true_answer(client):
    assert "red light" in ask(client, [user(image("red_light"), text(QUESTION))]).choices[0].message.content


def test_streamed(client, alone):
    stream = ask(client, [user(image("night"), text(QUESTION))], stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == alone((image("night"), text(QUESTION)))
    assert len(pieces) > 5


def test_two_images_in_the_middle_of_text(client, alone):
    parts = (text("Look: "), image("night"), text(" and "), image("clear"), text(" How many cars?"))
    assert ask(client, [user(*parts)]).choices[0].message.content == alone(parts)


def test_a_second_turn_finds_the_image_in_the_cache(served, client, alone):
    first = user(image("blocked"), text(QUESTION))
    answer = ask(client, [first]).choices[0].message.content
    encoded = served.model.llm.vision.encoder.cached_images
    turns = [first, {"role": "assistant", "content": answer}, user(text("How many cars are there?"))]
    second = ask(client, turns)
    assert second.usage.prompt_tokens_details.cached_tokens > 40
    assert served.model.llm.vision.encoder.cached_images == encoded, "and is not encoded again"
    assert second.choices[0].message.content == alone(*turns)


def test_many_at_once(client, alone):
    """Images and text share batches, and each request gets the same result as without the others."""
    cases = [(image(name), text(words)) for name in IMAGES for words in (QUESTION, "Count the cars.")]
    cases += [(text("hello"),), (text("Which light is on?"),)]
    want = [alone(parts) for parts in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        got = list(pool.map(lambda parts: ask(client, [user(*parts)]).choices[0].message.content, cases))
    assert got == want


def test_the_card_says_so(client, served):
    assert client.models.list().data[0].input_modalities == ["text", "image"]
    _, page = get(f"{served.url}/metrics")
    assert "tt_edge_images_total" in page
    assert "tt_edge_encode_seconds_count" in page


def image_of(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "PNG")
    return url_of(file.getvalue())


def test_images_that_do_not_fit_are_scaled_and_the_answer_says_so(client, road_bundle):
    four = [user(*[image("clear")] * 4, text(QUESTION))]
    warnings = ask(client, four).warnings
    assert len(warnings) == 4
    assert "pixels is scaled to 20 image tokens to fit the compiled model; in full it has 35" in warnings[0]
    chunks = list(ask(client, four, stream=True))
    assert len(chunks[0].warnings) == 4
    assert all(not hasattr(chunk, "warnings") for chunk in chunks[1:])
    assert not hasattr(ask(client, [user(image("clear"), text(QUESTION))]), "warnings")
    exact = LLM.load(road_bundle, "reference")
    exact.vision = exact.vision.with_exact_images()
    match = "image tokens, more than max_image_tokens 96"
    with serving_llm(exact) as served, served.client() as other, pytest.raises(openai.BadRequestError, match=match):
        ask(other, four)


def test_sizes_that_are_asked_for(client):
    """``detail`` and qwen-vl-utils' settings, in a part as DashScope has them."""
    whole = ask(client, [user(image("clear"), text(QUESTION))]).usage.prompt_tokens
    small = ask(client, [user({**image("clear"), "max_pixels": 10 * 28 * 28}, text(QUESTION))])
    assert whole - small.usage.prompt_tokens == 15, "20 image tokens, the least that this model takes, of 35"
    photo = image_of(500, 500)
    counts = [
        ask(client, [user({"type": "image_url", "image_url": {"url": photo, "detail": detail}})]).usage.prompt_tokens
        for detail in ("low", "high", "auto")
    ]
    assert counts[0] <= counts[1] == counts[2]


WHOLE = IMAGES["clear"].read_bytes()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}],
            "image URLs without a scheme are not fetched here",
        ),
        (
            [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
            "image URLs of scheme 'file' are not fetched",
        ),
        (
            [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}],
            "of scheme 'http' are not fetched here; send",
        ),
        (
            [{"type": "image", "image": str(IMAGES["clear"])}],
            "does not match any of the expected tags: 'text', 'image_url'",
        ),
        ([{"type": "video", "video": [str(IMAGES["clear"])]}], "does not match any of the expected tags"),
        (
            [{"type": "image_url", "image_url": "data:image/png;base64,AA"}],
            "image_url: Input should be a valid dictionary",
        ),
        ([{"type": "image_url", "image_url": {"url": "data:text/plain;base64,AAAA"}}], "must begin with data:image/"),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,A?="}}],
            "image in a data URL is not base64",
        ),
        ([{"type": "image_url", "image_url": {"url": url_of(b"hello")}}], "its format is unknown"),
        ([{"type": "image_url", "image_url": {"url": url_of(WHOLE[: len(WHOLE) // 2])}}], "cannot be read"),
        ([{"type": "image_url", "image_url": {"url": image_of(3000, 2)}}], "longer than 200 times its width"),
        ([image("clear", detail="huge")], "detail: Input should be 'auto', 'low' or 'high'"),
        ([{**image("clear"), "max_pixels": 0}], "max_pixels of an image is 0"),
        ([{**image("clear"), "resized_height": 28}], "has one of resized_height and resized_width"),
        (
            [{"type": "image_url", "image_url": {"url": url_of(gif(8000, 8000), "gif")}}] * 5,
            "320,000,000 pixels, more than",
        ),
        ([{"type": "image_url", "image_url": {"url": image_of(1, 60_000)}}], "longer than 200 times its width"),
        ([image("clear")] * 33, "33 images, more than 32; send fewer"),
        ([image("clear"), text("<|image_pad|> what?")], "the prompt has 2 placeholders"),
        ([text("<|image_pad|> what?")], "the prompt has 1 placeholders <|image_pad|> for 0 images"),
    ],
)
def test_refused(served, parts, message):
    status, answer, _ = post(f"{served.url}/v1/chat/completions", {"model": "road", "messages": [user(*parts)]})
    assert status == 400
    assert message in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 500, "the image is not sent back"
    assert (served.model.waiting, served.model.running) == (0, 0)


def test_an_image_token_among_ids_is_refused(served):
    [token, *_] = served.model.llm.vision.processor.token_ids
    status, answer, _ = post(f"{served.url}/v1/completions", {"model": "road", "prompt": [40, token, 41]})
    assert status == 400
    assert "the prompt has 1 image tokens (<|image_pad|>), and its images have 0" in answer["error"]["message"]


def test_images_that_are_refused_are_not_counted(served):
    def count():
        return next(
            line for line in get(f"{served.url}/metrics")[1].splitlines() if line.startswith("tt_edge_images_total")
        )

    before = count()
    body = {"model": "road", "messages": [user({"type": "image_url", "image_url": {"url": url_of(b"hello")}})]}
    assert post(f"{served.url}/v1/chat/completions", body)[0] == 400
    assert count() == before


def test_a_language_model_takes_no_images(folder):
    from tests.server.conftest import MODEL, serving

    with serving(folder) as served:
        body = {"model": MODEL, "messages": [user(image("clear"), text("hm"))]}
        status, answer, _ = post(f"{served.url}/v1/chat/completions", body)
        assert status == 400
        assert served.client().models.list().data[0].input_modalities == ["text"]
    assert "takes no images" in answer["error"]["message"] or "chat template" in answer["error"]["message"]


def test_a_large_body(served, road_bundle):
    large = {"model": "road", "messages": [user(text("x" * (2 << 20)))]}
    status, answer, _ = post(f"{served.url}/v1/chat/completions", large)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded"), "more than a language model's 1 MiB"
    with serving_llm(LLM.load(road_bundle, "reference"), max_body=1000) as small:
        body = {"model": "road", "messages": [user(image("clear"))]}
        status, answer, _ = post(f"{small.url}/v1/chat/completions", body)
        assert (status, answer["error"]["message"]) == (413, "the body is larger than 1000 bytes; send less")


def hold(served, monkeypatch) -> threading.Event:
    """The tower waits until the event is set."""
    release, run = threading.Event(), served.model.llm.vision.encoder.session.run

    def held(feeds):
        assert release.wait(20)
        return run(feeds)

    monkeypatch.setattr(served.model.llm.vision.encoder.session, "run", held)
    served.model.llm.vision.encoder.forget()
    return release


def body_of(name: str) -> dict:
    return {"model": "road", "messages": [user(image(name), text(QUESTION))], "max_tokens": 4}


def test_text_is_answered_while_an_image_is_encoded(served, client, monkeypatch):
    release = hold(served, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, f"{served.url}/v1/chat/completions", body_of("red_light"))
        served.wait_until(lambda: served.model.waiting == 1, "the image is being encoded")
        assert ask(client, [user(text("hello"))]).choices
        assert get(f"{served.url}/health")[0] == 200
        assert not waiting.done()
        release.set()
        assert waiting.result()[0] == 200


def test_overload_is_told_before_an_image_is_read(road_bundle, monkeypatch):
    with serving_llm(LLM.load(road_bundle, "reference"), max_waiting=1) as served:
        release = hold(served, monkeypatch)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, f"{served.url}/v1/chat/completions", body_of("night")) for _ in range(8)]
            served.wait_until(lambda: sum(a.done() for a in asked) == 5, "three are taken: two rows, one place")
            assert {a.result()[0] for a in asked if a.done()} == {429}
            release.set()
            assert sorted(a.result()[0] for a in asked) == [200] * 3 + [429] * 5


def test_a_client_that_goes_away_gives_up_its_place(served, monkeypatch):
    release = hold(served, monkeypatch)
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body_of("blocked")), headers)
    served.wait_until(lambda: served.model.waiting == 1, "its image is being encoded")
    connection.close()
    served.wait_until(lambda: served.model.waiting == 0, "its place is free")
    release.set()
    assert served.model.stats is not None
    assert post(f"{served.url}/v1/chat/completions", body_of("blocked"))[0] == 200


def test_encoding_that_takes_too_long(road_bundle, monkeypatch):
    with serving_llm(LLM.load(road_bundle, "reference"), timeout_s=0.3) as served:
        release = hold(served, monkeypatch)
        status, answer, _ = post(f"{served.url}/v1/chat/completions", body_of("clear"))
        release.set()
        assert (status, answer["error"]["code"]) == (504, "timeout")


def test_bytes_that_are_held_are_bounded(road_bundle, monkeypatch):
    monkeypatch.setattr(bodies, "MAX_HELD", 0)  # so twice the largest body
    with serving_llm(LLM.load(road_bundle, "reference"), max_body=20_000) as served:
        release = hold(served, monkeypatch)
        assert 40_000 / 3 < len(json.dumps(body_of("clear"))) < 20_000
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(post, f"{served.url}/v1/chat/completions", body_of("clear")) for _ in range(3)]
            served.wait_until(lambda: any(a.done() for a in asked), "one is told to come again")
            release.set()
            answers = [a.result() for a in asked]
        assert sorted(status for status, _, _ in answers) == [200, 200, 429]
        assert next(a for s, a, _ in answers if s == 429)["error"]["code"] == "overloaded"
        assert post(f"{served.url}/v1/chat/completions", body_of("clear"))[0] == 200, "nothing is held for ever"


def test_the_first_tokens_time_has_the_tower_in_it(road_bundle, monkeypatch):
    with LLM.load(road_bundle, "reference") as llm:
        run = llm.vision.encoder.session.run
        monkeypatch.setattr(llm.vision.encoder.session, "run", lambda feeds: time.sleep(0.3) or run(feeds))
        asked = [llm.chat([user(image("clear"), text(QUESTION))], CONFIG) for _ in range(2)]
    assert asked[0].timing.ttft_s > 0.3 > asked[1].timing.ttft_s, "the second time its features are kept"


def test_a_bundle_whose_tower_does_not_open_leaves_no_session(road_bundle, monkeypatch):
    closed = []
    monkeypatch.setattr(
        "tt_edge.runtime.engine.reference_session.ReferenceSession.close", lambda self: closed.append(self)
    )
    monkeypatch.setattr(
        "tt_edge.runtime.llm.open_part",
        lambda bundle, part, runtime: open_part(bundle, part, runtime) if part == "decoder" else 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        LLM.load(road_bundle, "reference")
    assert len(closed) == 1


def test_openais_client_has_the_cause(client):
    with pytest.raises(openai.BadRequestError, match="send the image as data:image/"):
        ask(client, [user({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})])
