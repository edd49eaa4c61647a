"""The web page of a real server, in a real headless Chromium.

usage: python web.py PATH_TO_MICROGPT SCREENSHOT_DIR
"""

import json
import os
import sys
import tempfile

from playwright.sync_api import expect, sync_playwright

from program import Server, train

SCREENSHOTS = os.path.abspath(sys.argv[2])
BROWSER = dict(
    executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
    args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
          "--disable-background-networking"],
)


class Visit:
    """A page that nothing may go wrong on behind its back."""

    def __init__(self, browser, server, width=1000, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.heed)
        self.requests = []
        self.page.on("request", lambda r: self.requests.append(r) if r.method == "POST" else None)
        self.page.goto(server.url)
        expect(self.page.locator("#model")).to_contain_text("parameters")

    def heed(self, message):
        # What the server refuses is on the console too, as it should be; the page says it in words.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def sent(self):
        return json.loads(self.requests[-1].post_data)

    def show(self, name):
        fits = self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert fits, f"{name} is wider than its window"
        self.page.screenshot(path=os.path.join(SCREENSHOTS, name + ".png"))

    def close(self):
        assert not self.complaints, self.complaints
        self.context.close()


def done(page):
    expect(page.locator("#stop")).to_be_disabled(timeout=30_000)


def test_chat(browser, server):
    visit = Visit(browser, server)
    page, said = visit.page, visit.page.locator("#messages li")
    expect(page).to_have_title("microgpt")
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    done(page)
    expect(said).to_have_count(2)
    expect(said.nth(0)).to_have_text("hello")
    assert visit.sent()["messages"] == [{"role": "user", "content": "hello"}]
    assert (visit.sent()["temperature"], visit.sent()["seed"]) == (0.5, 42) and visit.sent()["stream"]
    expect(page.locator("#input")).to_be_focused()
    first_reply = said.nth(1).text_content()

    # Text is inserted as text, and Shift with Enter is a new line.
    page.keyboard.type("<b>x</b>")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("<script>alert(1)</script>")
    page.keyboard.press("Enter")
    done(page)
    expect(said.nth(2)).to_have_text("<b>x</b>\n<script>alert(1)</script>")
    assert page.locator("#messages b, #messages script").count() == 0
    assert [m["role"] for m in visit.sent()["messages"]] == ["user", "assistant", "user"]
    visit.show("chat")

    page.reload()
    expect(said).to_have_count(4)
    assert said.nth(1).text_content() == first_reply
    page.click("#clear")
    expect(said).to_have_count(0)
    page.reload()
    expect(page.locator("#model")).to_contain_text("parameters")
    expect(said).to_have_count(0)
    visit.close()


def test_settings(browser, server):
    visit = Visit(browser, server)
    page = visit.page
    page.click("#settings summary")
    for field, value in [("temperature", "1.5"), ("top-k", "7"), ("top-p", "0.9"), ("seed", ""), ("max-tokens", "5")]:
        page.fill(f"#{field}", value)
    page.fill("#input", "hello")
    page.click("#send")
    done(page)
    sent = visit.sent()
    assert (sent["temperature"], sent["top_k"], sent["top_p"], sent["max_tokens"]) == (1.5, 7, 0.9, 5)
    assert "seed" not in sent
    assert len(page.locator("#messages li").nth(1).text_content()) <= 5
    page.reload()
    expect(page.locator("#top-k")).to_have_value("7")
    visit.close()


def test_error(browser, server):
    visit = Visit(browser, server)
    page = visit.page
    page.click("#settings summary")
    page.fill("#temperature", "-1")
    page.fill("#input", "hello")
    page.click("#send")
    expect(page.locator("#error")).to_have_text("The server refused: temperature must be >= 0, got -1.")
    # The message can be sent again.
    expect(page.locator("#input")).to_have_value("hello")
    expect(page.locator("#messages li")).to_have_count(0)
    visit.show("error")
    visit.close()


def test_stop(browser, server):
    visit = Visit(browser, server)
    page = visit.page
    # Fifty replies in one, so that there is time to stop them.
    page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=json.dumps({**json.loads(route.request.post_data), "n": 50, "temperature": 3})))
    page.fill("#input", "hello")
    page.click("#send")
    expect(page.locator("#messages li").nth(1)).not_to_be_empty()
    page.click("#stop")
    done(page)
    expect(page.locator("#error")).to_be_empty()
    assert page.locator("#messages li").nth(1).text_content()
    page.unroute("**/v1/chat/completions")
    # After it, the conversation goes on.
    page.click("#settings summary")
    page.fill("#max-tokens", "5")
    page.fill("#input", "hello")
    page.click("#send")
    done(page)
    expect(page.locator("#messages li")).to_have_count(4)
    visit.close()


def test_samples(browser, server):
    visit = Visit(browser, server)
    page = visit.page
    page.fill("#prompt", "an")
    page.fill("#num-samples", "12")
    page.keyboard.press("Enter")
    done(page)
    samples = page.locator("#samples li")
    expect(samples).to_have_count(12)
    assert all(text.startswith("an") for text in samples.all_text_contents())
    visit.show("samples")
    page.fill("#prompt", "A")
    page.click("#generate")
    expect(page.locator("#error")).to_contain_text("doesn't know: 'A'")
    visit.close()


def test_lost_server(browser, server):
    visit = Visit(browser, server)
    server.stop()
    visit.page.click("#generate")
    expect(visit.page.locator("#error")).to_have_text("The server cannot be reached.")
    visit.context.close()


def test_looks(browser, server):
    for width in (360, 1280):
        for scheme in ("light", "dark"):
            visit = Visit(browser, server, width, scheme)
            visit.page.fill("#input", "what is the opposite of averylongwordthatdoesnotfitintoanarrowwindow?")
            visit.page.click("#send")
            done(visit.page)
            visit.page.click("#settings summary")
            visit.show(f"chat-{width}-{scheme}")
            visit.close()


def main():
    os.makedirs(SCREENSHOTS, exist_ok=True)
    passed = 0
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        train(directory, "chat-model", "--chat", "--steps", "150", "--batch-size", "4", "--block-size", "64")
        train(directory, "slow-model", "--chat", "--steps", "1", "--batch-size", "1", "--block-size", "20000",
              "--n-embd", "256", "--n-layer", "4")
        train(directory, "text-model", "--steps", "200")
        browser = playwright.chromium.launch(**BROWSER)
        for model, tests in (
            ("chat-model", [test_chat, test_settings, test_error, test_looks]),
            ("slow-model", [test_stop]),
            ("text-model", [test_samples, test_lost_server]),
        ):
            with Server(directory, model) as server:
                for test in tests:
                    test(browser, server)
                    print(f"{model}: {test.__name__} ok")
                    passed += 1
        browser.close()
    print(f"web: {passed} passed, 0 failed")


main()
