"""test_life.py - aborts, reloads and killed processes with the real engine.

Each test starts a server of its own; the seed of random choices is printed.
"""
import json
import os
import random
import signal
import socket
import threading
import time

import httpx
import pytest

from conftest import ROOT, Server
from processes import Processes, runs

STORY = {"model": "demo", "stream": True, "temperature": 0,
         "messages": [{"role": "user", "content": "Tell me a story."}]}


@pytest.fixture()
def own():
    s = Server()
    yield s, Processes(s.proc.pid)
    s.stop()


def wait_for(what, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def healthy(s):
    try:
        return httpx.post(s.base_url + "/v1/chat/completions", timeout=10, json={
            **STORY, "stream": False, "max_tokens": 1}).status_code == 200
    except httpx.HTTPError:
        return False


def stream(s, body, result):
    """Reads a whole stream; result gets the text and how it ended."""
    text, done, error = "", False, None
    try:
        with httpx.stream("POST", s.base_url + "/v1/chat/completions", json=body,
                          timeout=60) as r:
            result["status"] = r.status_code
            for line in r.iter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    d = json.loads(line[6:])
                    error = d.get("error", error)
                    for c in d.get("choices", []):
                        text += c["delta"].get("content") or ""
    except httpx.HTTPError as e:
        result["exception"] = repr(e)
    result.update(text=text, done=done, error=error)


def start_streams(s, n, **kw):
    results = [{} for _ in range(n)]
    threads = [threading.Thread(target=stream, args=(s, {**STORY, **kw}, r)) for r in results]
    for t in threads:
        t.start()
    return threads, results


def test_a_thousand_aborts_leave_nothing_behind(own):
    s, p = own
    seed = random.randrange(2**32)
    print("seed", seed)
    rnd = random.Random(seed)
    assert healthy(s) and s.idle()
    base_engine, base_worker = p.num_fds(p.engine()), p.num_fds(p.workers()[0])
    body = json.dumps({**STORY, "max_tokens": 400, "ignore_eos": True}).encode()
    head = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
    message = head + body
    for i in range(1000):
        c = socket.create_connection(("127.0.0.1", s.port))
        c.settimeout(5)
        cut = rnd.choice((len(message), len(message), rnd.randrange(len(message))))
        c.sendall(message[:cut])
        if cut == len(message):
            want = rnd.choice((0, 0, 1, 200, 2000))
            got = 0
            while got < want:
                data = c.recv(4096)
                if not data:
                    break
                got += len(data)
        if rnd.random() < 0.5:      # reset instead of a clean close
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        c.close()
    assert s.idle(20), "KV blocks or sequences are left"
    assert healthy(s)
    assert wait_for(lambda: p.num_fds(p.engine()) <= base_engine, 10)
    assert wait_for(lambda: p.num_fds(p.workers()[0]) <= base_worker, 10)
    assert p.grave_lines() == []


def test_ten_reloads_during_twenty_streams(own):
    s, p = own
    engine = p.engine()
    alone = {}
    stream(s, {**STORY, "max_tokens": 120}, alone)
    threads, results = start_streams(s, 20, max_tokens=120)
    for _ in range(10):
        os.kill(p.master, signal.SIGHUP)
        time.sleep(0.2)
    for t in threads:
        t.join(60)
    assert all(r["done"] and r["text"] == alone["text"] for r in results), results
    assert p.engine() == engine, "a reload must keep the engine"
    assert healthy(s)
    assert p.grave_lines() == []


def test_killed_engine_ends_streams_and_comes_back(own):
    s, p = own
    engine = p.engine()
    threads, results = start_streams(s, 8, max_tokens=1500, ignore_eos=True)
    time.sleep(0.5)
    os.kill(engine, signal.SIGKILL)
    for t in threads:
        t.join(20)
        assert not t.is_alive(), "a stream hangs"
    for r in results:
        assert not r["done"]
        assert r.get("error") or r.get("exception") or r["status"] >= 500, r
    during = httpx.post(s.base_url + "/v1/chat/completions", json=STORY, timeout=10)
    if during.status_code != 200:
        assert during.status_code == 503 and "retry-after" in during.headers
        assert during.json()["error"]["message"]
    assert wait_for(lambda: healthy(s), 20)
    assert p.engine() != engine
    assert s.idle()


def test_killed_worker_is_replaced_and_its_blocks_are_freed(own):
    s, p = own
    engine, worker = p.engine(), p.workers()[0]
    threads, results = start_streams(s, 4, max_tokens=1500, ignore_eos=True)
    time.sleep(0.4)
    os.kill(worker, signal.SIGKILL)
    for t in threads:
        t.join(20)
    assert wait_for(lambda: healthy(s), 10)
    assert p.engine() == engine
    assert s.idle(), "the dead worker's sequences still hold blocks"


def test_killed_supervisor_is_replaced(own):
    s, p = own
    sups = p.supervisors()
    assert sups
    engine = p.engine()
    os.kill(max(sups, key=lambda x: x == min(sups)), signal.SIGKILL)
    assert wait_for(lambda: healthy(s) and p.engine() is not None, 20)
    assert wait_for(lambda: len(p.supervisors()) >= 1, 5)
    assert engine is not None


def test_killed_master_takes_everything_with_it():
    s = Server()
    p = Processes(s.proc.pid)
    pids = [p.master, p.engine()] + p.supervisors()
    os.kill(p.master, signal.SIGKILL)
    try:
        assert wait_for(lambda: p.engine() is None and not p.supervisors(), 20), \
            "the engine outlived its owner"
    finally:
        s.stop()
    assert wait_for(lambda: not any(runs(x) for x in pids), 10)


def test_hung_engine_is_503_not_a_hang(own):
    s, p = own
    engine = p.engine()
    os.kill(engine, signal.SIGSTOP)
    try:
        start = time.time()
        r = httpx.post(s.base_url + "/v1/chat/completions", json=STORY, timeout=60)
        assert r.status_code in (503, 504), r.text
        assert r.json()["error"]["message"]
        assert time.time() - start < 45
    finally:
        try:
            os.kill(engine, signal.SIGCONT)
        except ProcessLookupError:
            pass
    assert wait_for(lambda: healthy(s), 30)


def test_ctrl_c_leaves_nothing():
    s = Server()
    p = Processes(s.proc.pid)
    pids = [p.master, p.engine()] + p.workers() + p.supervisors()
    prefix = p.prefix
    threads, results = start_streams(s, 3, max_tokens=100)
    assert s.stop() == 0
    for t in threads:
        t.join(10)
    assert not os.path.exists(prefix)
    assert wait_for(lambda: not any(runs(x) for x in pids), 2), \
        [(x, p.describe(x)) for x in pids]
    with open("/proc/net/unix") as f:
        assert prefix not in f.read()


def test_make_run_with_a_missing_model_says_so():
    import subprocess
    r = subprocess.run([str(ROOT / "tools" / "run.sh")], cwd=ROOT, text=True,
                       env=dict(os.environ, MODEL="/nonexistent", PORT="18999"),
                       capture_output=True, timeout=60)
    assert r.returncode != 0 and "/nonexistent" in r.stderr
