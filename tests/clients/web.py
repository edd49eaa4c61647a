"""Tests the web page in a headless Chromium.

usage: python web.py PATH_TO_MICROGPT SCREENSHOT_DIR
"""

import json
import os
import re
import sys
import tempfile

from playwright.sync_api import expect, sync_playwright

import browser as chromium
from program import Server, train

SCREENSHOTS = os.path.abspath(sys.argv[2])


class Session:
    """The page in a browser context of its own. Any error on the console fails the test."""

    def __init__(self, browser, server, width=1000, scheme="light", key=None, awaits_model=True):
        self.context = browser.new_context(
            viewport={"width": width, "height": 700}, color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self.on_console)
        self.requests = []
        self.page.on("request", lambda r: self.requests.append(r) if r.method == "POST" else None)
        self.page.goto(server.url)
        if key:
            expect(self.page.locator("#error")).to_have_text("The server needs an API key.")
            self.page.fill("#key", key)
            self.page.keyboard.press("Enter")
        if awaits_model:
            expect(self.page.locator("#model")).to_contain_text("parameters")

    def on_console(self, message):
        # The browser also logs each refused request, which the page shows.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def last_body(self):
        return json.loads(self.requests[-1].post_data)

    def copied(self):
        self.page.click("#copy")
        return self.page.evaluate("navigator.clipboard.readText()")

    def screenshot(self, name):
        fits = self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert fits, f"{name} is wider than its window"
        self.page.screenshot(path=os.path.join(SCREENSHOTS, name + ".png"))

    def close(self):
        assert not self.errors, self.errors
        self.context.close()


def wait_until_done(page):
    expect(page.locator("#stop")).to_be_disabled(timeout=30_000)


def test_chat(browser, server):
    session = Session(browser, server)
    page, items = session.page, session.page.locator("#messages li")
    expect(page).to_have_title("microgpt")
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    wait_until_done(page)
    expect(items).to_have_count(2)
    expect(items.nth(0)).to_have_text("hello")
    assert session.last_body()["messages"] == [{"role": "user", "content": "hello"}]
    assert (session.last_body()["temperature"], session.last_body()["seed"]) == (0.5, 42) and session.last_body()["stream"]
    expect(page.locator("#input")).to_be_focused()
    first_reply = items.nth(1).text_content()

    # Messages are shown as plain text. Shift+Enter starts a new line.
    page.keyboard.type("<b>x</b>")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("<script>alert(1)</script>")
    page.keyboard.press("Enter")
    wait_until_done(page)
    expect(items.nth(2)).to_have_text("<b>x</b>\n<script>alert(1)</script>")
    assert page.locator("#messages b, #messages script").count() == 0
    assert [m["role"] for m in session.last_body()["messages"]] == ["user", "assistant", "user"]
    session.screenshot("chat")

    page.reload()
    expect(items).to_have_count(4)
    assert items.nth(1).text_content() == first_reply
    page.click("#clear")
    expect(items).to_have_count(0)
    page.reload()
    expect(page.locator("#model")).to_contain_text("parameters")
    expect(items).to_have_count(0)
    session.close()


def test_settings(browser, server):
    session = Session(browser, server)
    page = session.page
    page.click("#settings summary")
    for field, value in [("temperature", "1.5"), ("top-k", "7"), ("top-p", "0.9"), ("seed", ""), ("max-tokens", "5")]:
        page.fill(f"#{field}", value)
    page.fill("#input", "hello")
    page.click("#send")
    wait_until_done(page)
    body = session.last_body()
    assert (body["temperature"], body["top_k"], body["top_p"], body["max_tokens"]) == (1.5, 7, 0.9, 5)
    assert "seed" not in body
    assert len(page.locator("#messages li").nth(1).text_content()) <= 5
    page.reload()
    expect(page.locator("#top-k")).to_have_value("7")
    session.close()


def test_regenerate_and_copy(browser, server):
    session = Session(browser, server)
    page, items = session.page, session.page.locator("#messages li")
    page.click("#settings summary")
    page.fill("#temperature", "2")
    page.fill("#input", "hello")
    page.click("#send")
    wait_until_done(page)
    expect(page.locator("#status")).to_have_text(re.compile(r"^\d+ tokens?, [\d,]+ tokens/s, temperature 2, seed 42$"))
    first = items.nth(1).text_content()
    assert session.copied() == first
    page.click("#regenerate")
    wait_until_done(page)
    expect(items).to_have_count(2)
    assert session.last_body()["seed"] == 43
    assert session.last_body()["messages"] == [{"role": "user", "content": "hello"}]
    assert session.copied() == items.nth(1).text_content() != first
    # A refused one keeps the reply.
    page.fill("#temperature", "-1")
    page.click("#regenerate")
    expect(page.locator("#error")).to_contain_text("temperature")
    expect(items).to_have_count(2)
    session.close()


def test_api_key(browser, server):
    session = Session(browser, server, key="secret")
    page = session.page
    page.fill("#prompt", "an")
    page.click("#generate")
    wait_until_done(page)
    expect(page.locator("#samples li")).to_have_count(20)
    page.reload()
    expect(page.locator("#model")).to_contain_text("parameters")
    expect(page.locator("#key-row")).to_be_hidden()
    session.close()
    session = Session(browser, server, key="wrong", awaits_model=False)
    expect(session.page.locator("#key-row")).to_be_visible()
    session.close()


def test_error(browser, server):
    session = Session(browser, server)
    page = session.page
    page.click("#settings summary")
    page.fill("#temperature", "-1")
    page.fill("#input", "hello")
    page.click("#send")
    expect(page.locator("#error")).to_have_text("The server refused: temperature must be >= 0, got -1.")
    # The message is back in the input.
    expect(page.locator("#input")).to_have_value("hello")
    expect(page.locator("#messages li")).to_have_count(0)
    session.screenshot("error")
    session.close()


def test_stop(browser, server):
    session = Session(browser, server)
    page = session.page
    # Fifty choices leave time to stop them.
    page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=json.dumps({**json.loads(route.request.post_data), "n": 50, "temperature": 3})))
    page.fill("#input", "hello")
    page.click("#send")
    expect(page.locator("#messages li").nth(1)).not_to_be_empty()
    page.click("#stop")
    wait_until_done(page)
    expect(page.locator("#error")).to_be_empty()
    assert page.locator("#messages li").nth(1).text_content()
    page.unroute("**/v1/chat/completions")
    # The conversation continues after a stop.
    page.click("#settings summary")
    page.fill("#max-tokens", "5")
    page.fill("#input", "hello")
    page.click("#send")
    wait_until_done(page)
    expect(page.locator("#messages li")).to_have_count(4)
    session.close()


def test_samples(browser, server):
    session = Session(browser, server)
    page = session.page
    page.fill("#prompt", "an")
    page.fill("#num-samples", "12")
    page.keyboard.press("Enter")
    wait_until_done(page)
    samples = page.locator("#samples li")
    expect(samples).to_have_count(12)
    assert all(text.startswith("an") for text in samples.all_text_contents())
    assert session.copied().split("\n") == samples.all_text_contents()
    expect(page.locator("#status")).to_contain_text("tokens/s, temperature 0.5, seed 42")
    session.screenshot("samples")
    first = samples.all_text_contents()
    page.click("#regenerate")
    wait_until_done(page)
    expect(page.locator("#seed")).to_have_value("43")
    assert samples.all_text_contents() != first
    page.fill("#prompt", "A")
    page.click("#generate")
    expect(page.locator("#error")).to_contain_text("doesn't know: 'A'")
    session.close()


def test_unreachable_server(browser, server):
    session = Session(browser, server)
    server.stop()
    session.page.click("#generate")
    expect(session.page.locator("#error")).to_have_text("The server cannot be reached.")
    session.context.close()


def test_layout(browser, server):
    for width in (360, 1280):
        for scheme in ("light", "dark"):
            session = Session(browser, server, width, scheme)
            session.page.fill("#input", "what is the opposite of averylongwordthatdoesnotfitintoanarrowwindow?")
            session.page.click("#send")
            wait_until_done(session.page)
            session.page.click("#settings summary")
            session.screenshot(f"chat-{width}-{scheme}")
            session.close()


def main():
    os.makedirs(SCREENSHOTS, exist_ok=True)
    passed = 0
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        train(directory, "chat-model", "--chat", "--steps", "150", "--batch-size", "4", "--block-size", "64")
        train(directory, "slow-model", "--chat", "--steps", "1", "--batch-size", "1", "--block-size", "20000",
              "--n-embd", "256", "--n-layer", "4")
        train(directory, "text-model", "--steps", "200")
        browser = playwright.chromium.launch(**chromium.OPTIONS)
        for model, tests in (
            ("chat-model", [test_chat, test_settings, test_regenerate_and_copy, test_error, test_layout]),
            ("slow-model", [test_stop]),
            ("text-model", [test_samples, test_unreachable_server]),
        ):
            with Server(directory, model) as server:
                for test in tests:
                    test(browser, server)
                    print(f"{model}: {test.__name__} ok")
                    passed += 1
        with open(os.path.join(directory, "key"), "w") as file:
            file.write("secret\n")
        with Server(directory, "text-model", "--api-key-file", "key") as server:
            test_api_key(browser, server)
            print("text-model: test_api_key ok")
            passed += 1
        browser.close()
    print(f"web: {passed} passed, 0 failed")


main()
