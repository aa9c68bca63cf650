"""test_async_scheduling.py - the engine plans one step ahead, and nobody can tell.

On the CPU backend, which computes at the issue and delivers one step late; the
answers must be those of the server that works step by step, byte for byte.
"""
import concurrent.futures
import json
import pathlib

import httpx
import pytest

from conftest import Server
from processes import Processes
from test_demo_model import CASES

PROMPTS = ["Tell me a story.", "What is the capital of Thailand?", "Hello", "Count to ten.",
           "Who are you?", "Name three colours.", "Tell me a joke.", "Is the sky blue?"]


@pytest.fixture(scope="module")
def ahead():
    s = Server(engine_lines="async_scheduling; max_num_seqs 5; num_gpu_blocks_override 40;")
    engine = pathlib.Path(f"/proc/{Processes(s.proc.pid).engine()}/cmdline").read_bytes()
    assert b"--async-scheduling" in engine
    yield s
    s.stop()


def answer(url, i):
    """Greedy, seeded, cut by max_tokens of 1 and more, stopped by strings."""
    body = {"messages": [{"role": "user", "content": PROMPTS[i % len(PROMPTS)]}],
            "max_tokens": 1 + i * 7 % 60, "seed": i, "temperature": i % 3 * 0.7,
            "top_p": 0.9 if i % 2 else 1, "stop": ["e "] if i % 5 == 0 else None}
    r = httpx.post(url + "/v1/chat/completions", json=body, timeout=60)
    assert r.status_code == 200, r.text
    d = r.json()
    return d["choices"][0]["message"]["content"], d["choices"][0]["finish_reason"], d["usage"]


def test_answers_are_those_of_step_by_step(url, ahead):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        late = list(pool.map(lambda i: answer(ahead.base_url, i), range(48)))
    assert late == [answer(url, i) for i in range(48)]
    assert ahead.idle(), ahead.tail()


@pytest.mark.parametrize("case", CASES[:5], ids=[c["id"] for c in CASES[:5]])
def test_a_stream_has_every_token_and_one_end(ahead, case):
    body = {"messages": case["messages"], "temperature": 0, "max_tokens": 120, "stream": True,
            "stream_options": {"include_usage": True}}
    text, ends, usage = "", [], None
    with httpx.stream("POST", ahead.base_url + "/v1/chat/completions", json=body,
                      timeout=60) as r:
        for line in r.iter_lines():
            if not line.startswith("data: {"):
                continue
            d = json.loads(line[6:])
            usage = d.get("usage") or usage
            for c in d["choices"]:
                text += c["delta"].get("content") or ""
                ends += [c["finish_reason"]] if c["finish_reason"] else []
    assert len(ends) == 1
    assert usage["completion_tokens"] > 0
    for want in [case["contains"]] if isinstance(case["contains"], str) else case["contains"]:
        assert want in text


def test_a_client_that_leaves_frees_everything(ahead):
    for _ in range(5):
        with httpx.stream("POST", ahead.base_url + "/v1/chat/completions", timeout=60, json={
                "messages": [{"role": "user", "content": "Tell me a story."}],
                "max_tokens": 400, "ignore_eos": True, "stream": True}) as r:
            next(r.iter_lines())
    assert ahead.idle(), ahead.tail()
