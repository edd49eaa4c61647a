"""Tests a server with OpenAI's Python client and a Prometheus parser.

usage: python openai_api.py PATH_TO_MICROGPT
"""

import tempfile
import time
import urllib.request

import openai
from prometheus_client.parser import text_string_to_metric_families

import program


class Server(program.Server):
    def __init__(self, directory, model):
        super().__init__(directory, model)
        # Only the base URL differs from a program for OpenAI's servers.
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0)

    def metrics(self):
        with urllib.request.urlopen(self.url + "/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = response.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}


HELLO = [{"role": "user", "content": "hello"}]


def test_models(server):
    assert [model.id for model in server.client.models.list()] == ["microgpt"]
    assert server.client.models.retrieve("microgpt").object == "model"


def test_chat(server):
    completion = server.client.chat.completions.create(model="gpt-4o", messages=HELLO, seed=1, n=2, max_tokens=8)
    assert completion.object == "chat.completion" and len(completion.choices) == 2
    for index, choice in enumerate(completion.choices):
        assert choice.index == index and choice.message.role == "assistant"
        assert choice.finish_reason in ("stop", "length") and len(choice.message.content) <= 8
    usage = completion.usage
    assert usage.prompt_tokens == 9 and 0 < usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_content_parts(server):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    expected = server.client.chat.completions.create(model="m", messages=HELLO, seed=1)
    split = server.client.chat.completions.create(model="m", messages=parts, seed=1)
    assert expected.choices[0].message.content == split.choices[0].message.content


def test_streamed_chat(server):
    options = dict(model="m", messages=HELLO, seed=1)
    expected = server.client.chat.completions.create(**options)
    stream = server.client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    text, reason, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
    assert (text, reason) == (expected.choices[0].message.content, expected.choices[0].finish_reason)
    assert usage == expected.usage


def test_stop(server):
    options = dict(model="m", messages=HELLO, seed=1)
    full = server.client.chat.completions.create(**options).choices[0].message.content
    stop = full[2:4]
    stopped = server.client.chat.completions.create(**options, stop=[stop, "~"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (full[: full.index(stop)], "stop")


def test_errors(server):
    def error(kind, **options):
        try:
            server.client.chat.completions.create(**{"model": "m", "messages": HELLO, **options})
        except kind as error:
            return error
        raise AssertionError(f"no error for {options}")

    refusal = error(openai.BadRequestError, temperature=-1)
    assert refusal.status_code == 400 and refusal.type == "invalid_request_error"
    assert refusal.body["message"] == "temperature must be >= 0, got -1"
    error(openai.BadRequestError, messages=[])
    error(openai.BadRequestError, n=1000)
    try:
        server.client.models.retrieve("other")
    except openai.NotFoundError as missing:
        assert "other" in missing.body["message"]
    else:
        raise AssertionError("no error for an unknown model")


def test_disconnecting_cancels_generation(server):
    stream = server.client.chat.completions.create(model="m", messages=HELLO, stream=True, n=50, temperature=3)
    next(iter(stream))
    stream.close()
    for _ in range(200):
        if server.metrics()["microgpt_requests_in_progress"].samples[0].value == 0:
            return
        time.sleep(0.05)
    raise AssertionError("generation continues after the client disconnected")


def test_metrics(server):
    families = server.metrics()
    assert families["microgpt_requests"].type == "counter"
    counted = {
        (s.labels["endpoint"], s.labels["status"]): s.value for s in families["microgpt_requests"].samples
    }
    assert counted["/v1/chat/completions", "200"] >= 6 and counted["/v1/chat/completions", "400"] == 3
    histogram = families["microgpt_request_duration_seconds"]
    assert histogram.type == "histogram"
    buckets = [s.value for s in histogram.samples if s.name.endswith("_bucket")]
    count = next(s.value for s in histogram.samples if s.name.endswith("_count"))
    assert buckets == sorted(buckets) and buckets[-1] == count
    # A request for the metrics is counted after its response.
    assert count <= sum(counted.values())
    for name in ("microgpt_generated_tokens", "microgpt_prompt_tokens"):
        assert families[name].samples[0].value > 0
    for name in ("microgpt_requests_in_progress", "microgpt_queue_length"):
        assert families[name].type == "gauge"


def test_completions(server):
    completion = server.client.completions.create(model="m", prompt="an", n=3, seed=7)
    assert completion.object == "text_completion" and len(completion.choices) == 3
    stream = server.client.completions.create(model="m", prompt="an", seed=7, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == completion.choices[0].text


def main():
    chat = [test_models, test_chat, test_content_parts, test_streamed_chat, test_stop, test_errors,
            test_disconnecting_cancels_generation, test_metrics]
    text = [test_models, test_completions]
    passed = 0
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "chat-model", "--chat", "--steps", "30", "--batch-size", "4", "--block-size", "64")
        program.train(directory, "text-model", "--steps", "50")
        for model, tests in (("chat-model", chat), ("text-model", text)):
            with Server(directory, model) as server:
                for test in tests:
                    test(server)
                    print(f"{model}: {test.__name__} ok")
                    passed += 1
    print(f"clients: {passed} passed, 0 failed")


main()
