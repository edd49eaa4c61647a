"""Tests the page of `microgpt export --format html` in a headless Chromium, opened as a file.

usage: python html_export.py PATH_TO_MICROGPT SCREENSHOT_DIR
"""

import json
import os
import random
import re
import sys
import tempfile

from playwright.sync_api import expect, sync_playwright

import browser as chromium
from program import microgpt, train

SCREENSHOTS = os.path.abspath(sys.argv[2])
# What a page may not do: each must be reported as a violation of its policy.
FORBIDDEN = {
    "script-src-elem": """const s = document.createElement("script"); s.textContent = "window.broken = 1"; document.body.append(s)""",
    "script-src": """document.body.setAttribute("onclick", "window.broken = 1"); document.body.click()""",
    "style-src-elem": """const s = document.createElement("style"); s.textContent = "body { color: red }"; document.body.append(s)""",
    "style-src-attr": """document.body.setAttribute("style", "color: red")""",
    "img-src": """new Image().src = "http://127.0.0.1:9/image.png" """,
    "connect-src": """fetch("http://127.0.0.1:9/").catch(() => {})""",
    "frame-src": """const f = document.createElement("iframe"); f.src = "http://127.0.0.1:9/"; document.body.append(f)""",
}


class Session:
    """A page in a browser context of its own. Any error on the console, and any request, fails the test."""

    def __init__(self, browser, directory, model, width=1280, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.errors = []
        url = f"file://{directory}/{model}.html"
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("request", lambda request: self.errors.append(request.url) if request.url not in (url, "data:,") else None)
        self.page.goto(url)
        expect(self.page.locator("#description")).to_contain_text("parameters")

    def fill(self, **fields):
        for name, value in fields.items():
            self.page.fill("#" + name.replace("_", "-"), str(value))

    def generate(self):
        self.page.click("#generate")
        expect(self.page.locator("#pause")).to_be_disabled(timeout=120_000)
        expect(self.page.locator("#error")).to_be_empty()

    def samples(self):
        return self.page.evaluate("[...document.querySelectorAll('#samples li')].map((item) => item.textContent)")

    def screenshot(self, name):
        fits = self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert fits, f"{name} is wider than its window"
        self.page.screenshot(path=os.path.join(SCREENSHOTS, name + ".png"), full_page=True)

    def close(self):
        assert not self.errors, self.errors
        self.context.close()


def generate(directory, model, *options):
    lines = microgpt(directory, "generate", "--model-dir", model, "--json", *options).splitlines()
    samples = [json.loads(line) for line in lines]
    return [s.get("text") if "text" in s else "\n".join(m["content"] for m in s["messages"]) for s in samples]


def test_samples_equal_those_of_generate(browser, directory):
    for model, count in (("documents", 300), ("half", 100), ("continuous", 5), ("chat", 40)):
        session = Session(browser, directory, model)
        if model == "chat":
            session.page.select_option("#mode", "samples")
        for fields, options in (
            (dict(count=count), []),
            (dict(count=20, seed=2**64 - 1, temperature=1.3, prompt="an", max_tokens=9),
             ["--seed", str(2**64 - 1), "--temperature", "1.3", "--prompt", "an", "--max-tokens", "9"]),
            (dict(count=2, temperature=0), ["--temperature", "0", "--prompt", "an", "--max-tokens", "9", "--seed", "1"]),
        ):
            session.fill(**fields)
            session.generate()
            expected = generate(directory, model, "-n", str(fields["count"]), *options)
            assert session.samples() == expected, (model, fields)
        session.close()


def test_byte_level_bpe(browser, directory):
    for model, prompt in (("bpe-documents", "é漢 🙂"), ("bpe-continuous", "one of 9"), ("bpe-chat", "hello there")):
        session = Session(browser, directory, model)
        if model == "bpe-chat":
            session.page.select_option("#mode", "samples")
        for text in ("", prompt):
            session.fill(count=10, prompt=text)
            session.generate()
            assert session.samples() == generate(directory, model, "-n", "10", "--prompt", text), (model, text)
        session.close()


def test_replies_equal_those_of_chat(browser, directory):
    for model in ("chat", "bpe-chat"):
        check_replies(browser, directory, model)


def check_replies(browser, directory, model):
    session = Session(browser, directory, model)
    messages = ["hello", "what is the opposite of hot?", "<b>how</b> are YÖU?", "a long message " * 5, "bye"]
    expected = microgpt(directory, "chat", "--model-dir", model, input="\n".join(messages) + "\n").splitlines()
    for message in messages:
        session.fill(prompt=message)
        session.page.keyboard.press("Enter")
        expect(session.page.locator("#pause")).to_be_disabled(timeout=60_000)
        expect(session.page.locator("#prompt")).to_be_focused()
    assert session.page.locator("#messages .user").all_text_contents() == [m.strip() for m in messages]
    replies = session.page.evaluate("[...document.querySelectorAll('#messages .assistant')].map((item) => item.textContent)")
    assert replies == expected
    session.fill(prompt="Ö")
    session.page.click("#step")
    unknown = "The model doesn't know Ö, and does not see it." if model == "chat" else ""
    expect(session.page.locator("#status")).to_have_text(unknown)
    session.page.click("#clear")
    expect(session.page.locator("#messages li")).to_have_count(0)
    session.close()


def test_system_message_is_part_of_the_conversation(browser, directory):
    session = Session(browser, directory, "system")
    session.fill(system="loud", prompt="hi")
    session.generate()
    replies = microgpt(directory, "chat", "--model-dir", "system", "--system", "loud", input="hi\n").splitlines()
    assert session.page.locator("#messages .assistant").all_text_contents() == replies
    session.page.select_option("#mode", "samples")
    expect(session.page.locator("#system")).to_be_hidden()
    session.close()
    session = Session(browser, directory, "chat")
    expect(session.page.locator("#system")).to_be_hidden()
    session.close()


def test_steps_show_the_distribution(browser, directory):
    session = Session(browser, directory, "documents")
    page = session.page
    expected = generate(directory, "documents", "-n", "2")
    text = ""
    for _ in range(len(expected[0]) + 1):
        page.click("#step")
        sampled = page.locator("#bars .sampled .token").text_content()
        text += sampled if sampled != "<bos>" else ""
        assert session.samples() == [text]
        shares = [float(share.rstrip(" %")) for share in page.locator("#bars .share").all_text_contents()]
        assert abs(sum(shares) - 100) < 1
        low, high = map(float, re.search(r"covers (\S+) to (\S+)\.$", page.locator("#draw").text_content()).groups())
        random = float(re.search(r"number (\S+) falls", page.locator("#draw").text_content())[1])
        assert low - 1e-4 <= random <= high + 1e-4
    expect(page.locator("#context")).to_have_text(f"After <bos>{text}")
    assert text == expected[0]
    # The rest follows from there, and pauses.
    page.select_option("#speed", "10")
    page.click("#generate")
    page.click("#pause")
    expect(page.locator("#pause")).to_be_disabled()
    page.select_option("#speed", "")
    session.generate()
    assert session.samples() == generate(directory, "documents")
    # Another setting starts again.
    page.click("#step")
    session.fill(seed=43)
    page.click("#step")
    assert session.samples()[0] == generate(directory, "documents", "--seed", "43", "-n", "1")[0][:1]
    session.close()


def test_errors_name_the_value(browser, directory):
    session = Session(browser, directory, "documents")
    error = session.page.locator("#error")
    session.fill(prompt="aÖÜ")
    session.page.click("#generate")
    expect(error).to_have_text("""The prompt has characters that the model doesn't know: "Ö", "Ü".""")
    session.fill(prompt="a" * 17)
    session.page.click("#step")
    expect(error).to_have_text("The prompt takes 18 tokens, more than the model's context of 16.")
    session.fill(prompt="", seed=2**64)
    session.page.click("#step")
    expect(error).to_have_text(f"The seed must be less than 2^64, not {2**64}.")
    # The browser refuses these itself.
    session.fill(seed="x")
    session.page.click("#step")
    assert session.page.evaluate("document.activeElement.id") == "seed"
    session.fill(seed=1, temperature=-1)
    session.page.click("#generate")
    assert session.page.evaluate("document.activeElement.id") == "temperature" and session.samples() == []
    session.close()


def test_policy_forbids_everything_else(browser, directory):
    session = Session(browser, directory, "documents")
    for directive, action in FORBIDDEN.items():
        violated = session.page.evaluate(f"""() => new Promise((resolve) => {{
            addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective), {{ once: true }});
            {action};
        }})""")
        assert violated.startswith(directive), (directive, violated)
    assert session.page.evaluate("window.broken") is None
    session.context.close()


def test_controls_have_names(browser, directory):
    for model in ("documents", "chat"):
        session = Session(browser, directory, model)
        unnamed = session.page.evaluate("""[...document.querySelectorAll("input, select, button")]
            .filter((e) => !e.textContent.trim() && ![...e.labels].some((l) => l.textContent.trim())).map((e) => e.id)""")
        assert unnamed == []
        session.close()


def test_layout(browser, directory):
    for width in (360, 1280):
        for scheme in ("light", "dark"):
            for model in ("documents", "chat", "continuous"):
                session = Session(browser, directory, model, width, scheme)
                session.fill(prompt="an")
                session.generate()
                if model == "chat":
                    session.fill(prompt="what is the opposite of averylongwordthatdoesnotfitintoanarrowwindow?")
                for _ in range(3):
                    session.page.click("#step")
                if model == "continuous":
                    session.page.click("#program summary")
                session.screenshot(f"html-{model}-{width}-{scheme}")
                session.close()


def main():
    os.makedirs(SCREENSHOTS, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        with open(os.path.join(directory, "text.txt"), "w") as file:
            file.write("".join(f"{n} green bottles stand on the wall, and one falls.\n" for n in range(300)))
        with open(os.path.join(directory, "system.jsonl"), "w") as file:
            for system, reply in (("loud", "HELLO"), ("quiet", "hello")):
                turns = [("system", system), ("user", "hi"), ("assistant", reply)]
                file.write(json.dumps([{"role": role, "content": content} for role, content in turns]) + "\n")
        train(directory, "system", "--chat", "--input", "system.jsonl", "--steps", "100", "--block-size", "32")
        train(directory, "documents", "--steps", "200")
        train(directory, "chat", "--chat", "--steps", "200", "--batch-size", "4", "--block-size", "64")
        train(directory, "continuous", "--text", "--input", "text.txt", "--steps", "60", "--n-layer", "2")
        rng = random.Random(1)
        with open(os.path.join(directory, "characters.txt"), "w") as file:
            file.write("".join("".join(rng.choices("漢字🙂é x", k=12)) + "\n" for _ in range(300)))
        bpe = ["--steps", "60", "--batch-size", "4", "--block-size", "48", "--vocab-size"]
        train(directory, "bpe-documents", "--input", "characters.txt", *bpe, "264")
        train(directory, "bpe-continuous", "--text", "--input", "text.txt", *bpe, "280")
        train(directory, "bpe-chat", "--chat", *bpe, "400")
        microgpt(directory, "export", "--model-dir", "documents", "--half", "--output", "half")
        for model in ("documents", "half", "chat", "system", "continuous", "bpe-documents", "bpe-continuous", "bpe-chat"):
            microgpt(directory, "export", "--model-dir", model, "--format", "html", "--output", f"{model}.html")
        browser = playwright.chromium.launch(**chromium.OPTIONS)
        tests = [test for name, test in globals().items() if name.startswith("test_")]
        for test in tests:
            test(browser, directory)
            print(f"html: {test.__name__} ok")
        browser.close()
    print(f"html: {len(tests)} passed, 0 failed")


main()
