"""The chat page in a real browser, where Chromium is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.server.conftest import serving
from tests.server.parsing.test_limits import get, slow

IMAGES = Path(__file__).parents[2] / "examples" / "road_scenes" / "pictures"

chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def errors():
    return []


@pytest.fixture
def page(browser, errors):
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()


def say(page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_two_turns_and_a_new_chat(served, page, errors):
    page.goto(served.url)
    page.wait_for_selector("#model:text('tiny')")
    page.click("summary")
    page.fill("#max_tokens", "6")
    say(page, "<b>Go?</b>")
    page.wait_for_selector(".note:text('6 tokens in')")
    assert page.locator(".user").inner_text() == "<b>Go?</b>"
    say(page, "And now?")
    page.wait_for_selector(".note:text('known from before')")
    assert page.locator(".assistant").count() == 2
    page.click("#reset")
    assert page.locator(".turn").count() == 0
    assert errors == []


def test_errors_are_shown_and_the_message_is_given_back(served, page):
    page.goto(served.url)
    say(page, "light " * 99)
    page.wait_for_selector(".error:text('maximum context length is 80 tokens')")
    assert page.input_value("#text").startswith("light light")
    assert page.locator(".user").count() == 0


def test_stop(served, page, monkeypatch):
    slow(served, monkeypatch)
    page.goto(served.url)
    say(page, "Go?")
    page.wait_for_selector(".assistant:not(:empty)")
    page.click("#send:text('Stop')")
    page.wait_for_selector(".note:text('stopped')")
    served.wait_until(lambda: served.model.running == 0, "ended")


def test_the_key_is_asked_for(folder, page):
    with serving(folder, api_keys=("secret",)) as served:
        page.goto(served.url)
        page.wait_for_selector("#status:text('API key is missing or wrong')")
        page.click("summary")
        page.fill("#key", "secret")
        page.press("#key", "Tab")
        page.wait_for_selector("#model:text('tiny')")


def test_nothing_is_loaded_from_elsewhere(served):
    for path in ("/", "/chat.js", "/chat.css"):
        status, text = get(served.url + path)
        assert status == 200
        assert "http" not in text.replace("http-equiv", "")


class TestImages:
    """Of a vision-language model."""

    pytestmark = pytest.mark.xdist_group("road scenes")

    @pytest.fixture(scope="class")
    def road(self, road_bundle):
        from tests.server.conftest import serving_llm
        from tt_edge.runtime.llm import LLM

        with serving_llm(LLM.load(road_bundle, "reference")) as served:
            yield served

    @pytest.fixture
    def opened(self, road, page):
        page.goto(road.url)
        page.wait_for_selector("#attach:not([hidden])")
        page.click("summary")
        page.fill("#max_tokens", "20")
        page.fill("#temperature", "0")
        return page

    def test_attach_remove_and_ask(self, opened, errors):
        opened.set_input_files("#files", [IMAGES / "red_light.png", IMAGES / "night.png"])
        opened.wait_for_selector("#attached li:nth-child(2)")
        opened.click("button[aria-label='Remove night.png']")
        assert opened.locator("#attached li").count() == 1
        say(opened, "Describe the picture.")
        opened.wait_for_selector(".note:text('tokens in')")
        assert "red light" in opened.locator(".assistant").inner_text()
        assert opened.locator(".user img").get_attribute("alt") == "red_light.png"
        assert opened.locator("#attached li").count() == 0
        say(opened, "How many cars are there?")
        opened.wait_for_selector(".note:text('known from before')")
        assert errors == []

    def test_an_image_alone_and_the_same_again(self, opened, errors):
        for count in (0, 1):
            opened.set_input_files("#files", [IMAGES / "clear.png"])
            opened.wait_for_selector("#attached li")
            opened.press("#text", "Enter")
            opened.locator(".note").nth(count).wait_for()
        assert opened.locator(".user img").count() == 2
        assert errors == []

    def test_pasted_and_dropped(self, opened, errors):
        content = list((IMAGES / "clear.png").read_bytes())
        opened.evaluate(
            """content => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(content)], "clear.png", { type: "image/png" }));
                data.items.add(new File(["words"], "note.txt", { type: "text/plain" }));
                const text = document.getElementById("text");
                text.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
                document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
            }""",
            content,
        )
        opened.wait_for_selector("#attached li:nth-child(2)")
        assert opened.locator("#attached li").count() == 2
        assert errors == []

    def test_large_images_are_made_smaller(self, opened, tmp_path, errors):
        from PIL import Image

        Image.new("RGB", (4000, 1000), "green").save(tmp_path / "wide.png")
        opened.set_input_files("#files", [tmp_path / "wide.png"])
        opened.wait_for_selector("#attached img")
        size = opened.locator("#attached img").evaluate("i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])")
        assert size == [2048, 512]
        assert errors == []

    def test_what_is_no_image(self, opened, tmp_path, errors):
        (tmp_path / "broken.png").write_text("no image")
        opened.set_input_files("#files", [tmp_path / "broken.png"])
        opened.wait_for_selector("#status:text('broken.png cannot be read as an image')")
        assert opened.locator("#attached li").count() == 0
        assert errors == []

    def test_images_that_are_scaled_to_fit(self, opened, errors):
        opened.set_input_files("#files", [IMAGES / "clear.png"] * 4)
        opened.wait_for_selector("#attached li:nth-child(4)")
        say(opened, "How many cars?")
        opened.wait_for_selector(".note:text('is scaled to')")
        assert errors == []

    def test_a_refusal_gives_the_images_back(self, opened, tmp_path, errors):
        from PIL import Image

        Image.new("RGB", (1000, 3), "green").save(tmp_path / "strip.png")
        opened.set_input_files("#files", [tmp_path / "strip.png"] * 3)
        opened.wait_for_selector("#attached li:nth-child(3)")
        say(opened, "How many cars?")
        opened.wait_for_selector(".error:text('longer than 200 times its width')")
        assert opened.locator("#attached li").count() == 3
        assert opened.input_value("#text") == "How many cars?"
        assert errors == []


def test_no_button_for_a_language_model(served, page):
    page.goto(served.url)
    page.wait_for_selector("#model:text('tiny')")
    assert page.locator("#attach").is_hidden()
