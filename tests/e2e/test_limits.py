"""test_limits.py - token limits with the real engine: it counts, nginx reserves.

The file is conf/limits.conf as it is; the numbers are those of its plans.
"""
import concurrent.futures
import json
import time

import httpx
import openai
import pytest

from test_conf import ALICE, BOB, CHAT, refused, run  # noqa: F401

FREE = 1000                     # tokens a minute of the plan "free"
LONGEST = 256                   # llm_max_tokens of it


def remaining(answer):
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def usage_log(gateway, count):
    def lines():
        return [x for x in map(json.loads, gateway.log("usage.log").splitlines())
                if x["limit"] == "PASSED"]
    assert gateway.wait(lambda: len(lines()) >= count), gateway.log("usage.log")
    return lines()


def test_exact_counts(run):  # noqa: F811
    gateway = run("limits.conf")
    first = gateway.chat({**CHAT, "max_tokens": 40}, headers=ALICE)
    assert first.status_code == 200
    used = first.json()["usage"]
    # Reserved before the first token: the prompt the engine counted, and 40.
    assert first.headers["x-ratelimit-limit-tokens"] == str(FREE)
    assert remaining(first) == FREE - used["prompt_tokens"] - 40
    second = gateway.chat({**CHAT, "max_tokens": 40}, headers=ALICE)
    leaked = 1 + FREE // 60 * 10
    expected = FREE - used["total_tokens"] - used["prompt_tokens"] - 40
    assert expected <= remaining(second) <= expected + leaked
    line = usage_log(gateway, 2)[0]
    assert int(line["reserved"]) == used["prompt_tokens"] + 40
    assert int(line["prompt_tokens"]) == used["prompt_tokens"]
    assert int(line["completion_tokens"]) == used["completion_tokens"]
    # The day's quota does not leak: after SIGTERM its file has every token.
    total = sum(a.json()["usage"]["total_tokens"] for a in (first, second))
    gateway.stop()
    assert f"\n{total} alice\n" in (gateway.dir / "quota" / "day").read_text()


def test_max_tokens_is_a_cap(run):  # noqa: F811
    gateway = run("limits.conf")
    silent = {k: v for k, v in CHAT.items() if k != "max_tokens"}
    for body in [silent, {**CHAT, "max_tokens": 300}]:
        answer = gateway.chat({**body, "ignore_eos": True}, headers=BOB)
        assert answer.status_code == 200, answer.text
    answer = gateway.chat({**silent, "ignore_eos": True}, headers=ALICE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == LONGEST
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_streams_and_aborts(run):  # noqa: F811
    gateway = run("limits.conf")
    client = openai.OpenAI(base_url=gateway.url + "/v1", max_retries=0,
                           api_key=ALICE["Authorization"].split()[1])
    stream = client.chat.completions.create(
        **{**CHAT, "max_tokens": 30}, stream=True, stream_options={"include_usage": True})
    whole = [c.usage for c in stream if c.usage][0].total_tokens
    with client.chat.completions.with_streaming_response.create(
            **{**CHAT, "max_tokens": 200}, stream=True,
            extra_body={"ignore_eos": True}) as response:
        next(iter(response.iter_lines()))
    line = usage_log(gateway, 2)[1]
    aborted = int(line["prompt_tokens"]) + int(line["completion_tokens"])
    gateway.stop()
    assert f"\n{whole + aborted} alice\n" in (gateway.dir / "quota" / "day").read_text()


def test_refusals_through_the_sdk(run):  # noqa: F811
    gateway = run("limits.conf")
    client = openai.OpenAI(base_url=gateway.url + "/v1", max_retries=0,
                           api_key=ALICE["Authorization"].split()[1])
    # The engine has been asked for the count, and nothing has been computed.
    with pytest.raises(openai.RateLimitError) as e:
        client.chat.completions.create(**{**CHAT, "messages": [
            {"role": "user", "content": "hello " * 1200}]})
    assert e.value.code == "rate_limit_exceeded" and e.value.type == "tokens"
    assert "Request too large" in e.value.message
    assert gateway.get("/metrics").status_code == 401
    metrics = gateway.get("/metrics", headers=BOB).text
    assert "\nvllm:generation_tokens_total" in metrics
    for text in metrics.splitlines():
        if text.startswith("vllm:generation_tokens_total"):
            assert float(text.rsplit(" ", 1)[1]) == 0


def test_sixteen_at_once(run):  # noqa: F811
    gateway = run("limits.conf")
    body = {**CHAT, "max_tokens": 200, "ignore_eos": True}
    began = time.time()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: gateway.chat(body, headers=ALICE), range(16)))
    passed = [a for a in answers if a.status_code == 200]
    used = sum(a.json()["usage"]["total_tokens"] for a in passed)
    assert passed and used <= FREE + (time.time() - began + 1) * FREE / 60
    for a in answers:
        if a.status_code != 200:
            error = refused(a, 429, "rate_limit_exceeded")
            assert error["type"] == "tokens"
            assert 1 <= int(a.headers["retry-after"]) <= 60
            assert "Please try again in" in error["message"]


def test_deadline(run, monkeypatch):  # noqa: F811
    import test_conf
    original = test_conf.Gateway.__init__

    def with_deadline(self, *args):
        original(self, *args)
        conf = self.dir / "nginx.conf"
        conf.write_text(conf.read_text().replace(
            "llm_limit  zone=free;", "llm_limit zone=free; llm_deadline 200ms;"))

    monkeypatch.setattr(test_conf.Gateway, "__init__", with_deadline)
    gateway = run("limits.conf")
    body = {**CHAT, "max_tokens": 2000, "ignore_eos": True, "n": 16}
    answer = gateway.chat(body, headers=BOB)
    assert answer.status_code == 504, answer.text
    assert answer.json()["error"]["code"] == "deadline"
    with httpx.stream("POST", gateway.url + "/v1/chat/completions", timeout=30,
                      json={**body, "stream": True}, headers=BOB) as response:
        text = response.read().decode()
    assert response.status_code == 200 and '"code":"deadline"' in text
    assert "[DONE]" not in text
