"""The chat page in a real browser, where Chromium is installed."""

from __future__ import annotations

import shutil

import pytest

from tests.server.conftest import serving
from tests.server.test_limits import get, slow

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
    page.wait_for_selector(".error:text('the model takes 80; shorten them')")
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
    with serving(folder, api_key="secret") as served:
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
