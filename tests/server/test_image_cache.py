"""The image-feature cache in use: an image that comes again skips the vision network, and the answer is the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.server.conftest import serving_llm
from tests.server.parsing.test_limits import get
from tests.server.test_images import CONFIG, IMAGES, QUESTION, ask, image, text, user
from tt_edge.cli import main
from tt_edge.errors import EngineError
from tt_edge.runtime.llm import LLM

pytestmark = pytest.mark.xdist_group("road scenes")


@pytest.fixture(scope="module")
def llm(road_bundle):
    with LLM.load(road_bundle, "reference") as llm:
        yield llm


@pytest.fixture
def runs(llm, monkeypatch):
    """The shapes of what the vision network was given, call by call."""
    return counted(llm, monkeypatch)


def counted(llm, monkeypatch):
    found, session = [], llm.vision.encoder.session
    run = session.run
    monkeypatch.setattr(session, "run", lambda feeds: found.append(len(feeds["patches"])) or run(feeds))
    llm.vision.encoder.forget()
    return found


def asked(llm, name, salt=""):
    """The answer, computed without any keys and values of an earlier one."""
    llm.scheduler.forget()
    prompt = llm.encode(llm.render_chat([user(image(name), text(QUESTION))]), cache_salt=salt)
    request = llm.text_request(prompt, CONFIG)
    for _ in llm.run([request]):
        pass
    return request.completion()


def test_the_second_time_the_network_does_not_run(llm, runs):
    first = asked(llm, "red_light")
    assert len(runs) == 1
    second = asked(llm, "red_light")
    assert len(runs) == 1
    assert second.cached_tokens == 0, "it is not the KV cache that answers"
    assert second.new_token_ids == first.new_token_ids


def test_only_the_new_image_is_encoded(llm, runs):
    asked(llm, "night")
    llm.chat([user(image("night"), image("clear"), text(QUESTION))], CONFIG)
    llm.chat([user(image("clear"), image("night"), text(QUESTION))], CONFIG)
    assert len(runs) == 2


def test_the_file_format_does_not_matter(llm, runs, tmp_path):
    path = tmp_path / "clear.bmp"
    Image.open(IMAGES["clear"]).convert("RGB").save(path)
    for file in (IMAGES["clear"], path):
        llm.chat([user({"type": "image", "image": str(file)}, text(QUESTION))], CONFIG)
    assert len(runs) == 1


def test_a_client_does_not_profit_from_anothers_image(llm, runs):
    answers = [asked(llm, "blocked", salt).text for salt in ("one", "two", "one", "")]
    assert len(runs) == 3
    assert len(set(answers)) == 1


def test_an_image_that_fails_leaves_nothing(llm, runs, monkeypatch):
    run = llm.vision.encoder.session.run

    def failing(feeds):
        raise EngineError("the device was lost")

    with monkeypatch.context() as patch:
        patch.setattr(llm.vision.encoder.session, "run", failing)
        with pytest.raises(EngineError, match="the device was lost"):
            asked(llm, "clear")
    assert llm.vision.encoder.cache.stats.images == 0
    assert llm.vision.encoder.session.run is run
    assert asked(llm, "clear").text


def test_threads_that_ask_about_one_image_encode_it_once(llm, runs):
    with ThreadPoolExecutor(4) as pool:
        chats = [[user(image("night"), text(f"{QUESTION} {number}"))] for number in range(4)]
        prompts = list(pool.map(lambda messages: llm.encode(llm.render_chat(messages)), chats))
    assert len(runs) == 1
    for prompt in prompts[1:]:
        for name, table in prompt.images.features.items():
            np.testing.assert_array_equal(table, prompts[0].images.features[name])


def test_metrics(road_bundle):
    with serving_llm(LLM.load(road_bundle, "reference")) as served, served.client() as client:
        for _ in range(2):
            ask(client, [user(image("clear"), text(QUESTION))])
        _, page = get(f"{served.url}/metrics")
        [features] = served.model.llm.vision.encoder.cache._images.values()
    size = sum(array.nbytes for array in features.values())
    lines = {"hits_total 1.0", "misses_total 1.0", "evictions_total 0.0", "images 1.0", f"bytes {float(size)}"}
    assert {f"tt_edge_image_cache_{line}" for line in lines} <= set(page.splitlines())


def test_the_option(road_bundle, capsys, monkeypatch):
    for command, *more in (("run", "--prompt", "x"), ("serve",), ("chat",)):
        assert main([command, str(road_bundle), *more, "--image-cache-mb", "-1"]) == 2
        assert "--image-cache-mb is -1; give 0 or more" in capsys.readouterr().err
    with LLM.load(road_bundle, "reference", image_cache_bytes=0) as llm:
        runs = counted(llm, monkeypatch)
        assert asked(llm, "clear").text == asked(llm, "clear").text
        assert len(runs) == 2
