"""test_clients.py - HTTP/2 and TLS clients: resets at every stage, windows that
close and open, rapid resets, many streams on one connection, GOAWAY.

HTTP/2 is spoken by the `h2` library, frame by frame; httpx is the client that
users have.  After each test nothing runs in the engine any more.
"""
import itertools
import json
import os
import random
import signal
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httpx
import pytest

from own_nginx import OwnNginx, wait_for

CHAT = "/v1/chat/completions"
WINDOWS = "llm_send_timeout 1500ms; llm_buffer_size 16k; client_body_timeout 800ms;"
ids = itertools.count()


def body(**mock):
    stream = mock.pop("stream", True)
    return json.dumps({"stream": stream, "messages": [{"role": "user", "content": "x"}],
                       "mock": {"prompt_tokens": 7, **mock}}).encode()


class H2:
    """One HTTP/2 connection; `stream` is what has come for each stream."""

    def __init__(self, port, tls=False, window=None):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        if tls:
            context = ssl._create_unverified_context()
            context.set_alpn_protocols(["h2"])
            self.sock = context.wrap_socket(self.sock)
            assert self.sock.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.manual = window is not None
        self.stream, self.goaway, self.closed, self.rest = {}, None, False, b""
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            try:
                self.sock.sendall(data)
            except OSError:
                self.closed = True

    def ask(self, data, end=True, path=CHAT, method="POST", request_id=None, length=None):
        i = self.h2.get_next_available_stream_id()
        headers = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        if data is not None:
            headers += [("content-type", "application/json"),
                        ("content-length", str(length if length is not None else len(data)))]
        if request_id:
            headers.append(("x-request-id", request_id))
        self.stream[i] = {"status": None, "data": b"", "ended": False, "reset": None, "credit": 0}
        self.h2.send_headers(i, headers, end_stream=data is None)
        if data:
            self.send(i, data, end)
        self.flush()
        return i

    def send(self, i, data, end=True):
        while data:
            n = min(self.h2.local_flow_control_window(i), self.h2.max_outbound_frame_size, len(data))
            if n == 0:
                self.flush()
                if not self.pump(1) or self.stream[i]["ended"] or self.stream[i]["reset"] is not None:
                    return
                continue
            self.h2.send_data(i, data[:n], end_stream=end and n == len(data))
            data = data[n:]
        self.flush()

    def reset(self, i, code=h2.errors.ErrorCodes.CANCEL):
        try:
            self.h2.reset_stream(i, code)
        except h2.exceptions.ProtocolError:
            pass
        self.flush()

    def pump(self, seconds):
        """Handles what comes within `seconds`; False when nothing has."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(65536)
        except (TimeoutError, ssl.SSLWantReadError):
            return False
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return False
        for e in self.h2.receive_data(self.without_goaway(data)):
            s = self.stream.get(getattr(e, "stream_id", None), {})
            if isinstance(e, h2.events.ResponseReceived):
                s["status"] = int(dict(e.headers)[b":status"])
            elif isinstance(e, h2.events.DataReceived):
                s["data"] += e.data
                s["credit"] += e.flow_controlled_length
                if not self.manual:
                    self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            elif isinstance(e, h2.events.StreamEnded):
                s["ended"] = True
            elif isinstance(e, h2.events.StreamReset):
                s["reset"] = e.error_code
        self.flush()
        return True

    def without_goaway(self, data):
        """Whole frames; GOAWAY ends the library's interest, but not the streams."""
        self.rest += data
        out = b""
        while len(self.rest) >= 9:
            size = 9 + int.from_bytes(self.rest[:3], "big")
            if len(self.rest) < size:
                break
            if self.rest[3] == 7:
                self.goaway = int.from_bytes(self.rest[13:17], "big")
            else:
                out += self.rest[:size]
            self.rest = self.rest[size:]
        return out

    def until(self, what, seconds=10):
        end = time.time() + seconds
        while not what() and not self.closed and time.time() < end:
            self.pump(0.05)
        return what()

    def until_ended(self, *streams, seconds=10):
        return self.until(lambda: all(self.stream[i]["ended"] or self.stream[i]["reset"] is not None
                                      for i in streams), seconds)

    def text(self, i):
        return self.stream[i]["data"].decode()

    def close(self):
        self.sock.close()


@pytest.fixture(scope="module")
def n():
    own = OwnNginx("listen 127.0.0.1:PORT http2; listen 127.0.0.1:PORT2 ssl http2; "
                   "http2_max_concurrent_streams 128; client_max_body_size 6m;", location=WINDOWS)
    yield own
    assert own.stop() == []


@pytest.fixture(params=["cleartext", "tls"])
def connect(request, n):
    def connect(**kw):
        return H2(n.port2 if connect.tls else n.port, tls=connect.tls, **kw)
    connect.tls = request.param == "tls"
    return connect


class Beside:
    """A stream on a connection of its own; `worst` is its longest gap in seconds."""

    def __init__(self, n, tokens=100):
        self.worst, self.text = 0.0, ""
        self.request = {"stream": True, "messages": [], "mock": {"tokens": tokens, "delay_ms": 10}}
        self.url = f"http://127.0.0.1:{n.plain}{CHAT}"
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        with httpx.stream("POST", self.url, json=self.request, timeout=30) as r:
            last = None
            for line in r.iter_lines():
                now = time.time()
                if last is not None:
                    self.worst = max(self.worst, now - last)
                last, self.text = now, self.text + line + "\n"

    def whole(self):
        self.thread.join(30)
        return "[DONE]" in self.text


# ---- what works ------------------------------------------------------------------
def test_a_stream_comes_event_by_event(n, connect):
    c = connect()
    i = c.ask(body(tokens=5, delay_ms=100))
    assert c.until(lambda: b"tok0" in c.stream[i]["data"])
    assert b"tok4" not in c.stream[i]["data"]
    assert c.until_ended(i)
    assert c.stream[i]["status"] == 200 and c.text(i).endswith("data: [DONE]\n\n")


def test_whole_answers_errors_get_and_head(n, connect):
    c = connect()
    whole = c.ask(body(tokens=3, stream=False))
    bad = c.ask(b"{")
    models = c.ask(None, path="/v1/models", method="GET")
    head = c.ask(None, path="/v1/models", method="HEAD")
    wrong = c.ask(None, method="GET")
    empty = c.ask(b"", end=True)
    c.h2.end_stream(empty)
    c.flush()
    assert c.until_ended(whole, bad, models, head, wrong, empty)
    assert "tok0 tok1 tok2" in c.text(whole)
    assert c.stream[bad]["status"] == 400 and "error" in c.text(bad)
    assert "list" in c.text(models)
    assert c.stream[head]["status"] == 200 and c.text(head) == ""
    assert c.stream[wrong]["status"] == 405
    assert c.stream[empty]["status"] == 400


def test_httpx_over_http1_and_2(n):
    for http2 in (False, True):
        with httpx.Client(http2=http2, verify=False) as client:
            url = f"https://127.0.0.1:{n.port2}{CHAT}"
            r = client.post(url, content=body(tokens=2, stream=False),
                            headers={"content-type": "application/json"})
            assert r.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert r.json()["usage"]["completion_tokens"] == 2
            with client.stream("POST", url, content=body(tokens=1000, delay_ms=10),
                               headers={"content-type": "application/json"}) as r:
                for line in r.iter_lines():
                    if "tok3 " in line:
                        break              # and leave
    assert n.idle()


def test_bodies(n, connect):
    c = connect()
    for size in (1, 16384, 70000, 5 << 20):
        data = json.dumps({"mock": {"tokens": 1}, "user": "p" * size}).encode()
        i = c.ask(data)
        assert c.until_ended(i) and c.stream[i]["status"] == 200, (size, c.stream[i])
    i = c.ask(json.dumps({"user": "p" * (7 << 20)}).encode())
    assert c.until_ended(i) and c.stream[i]["status"] == 413
    # More than announced, less than announced, and one that stops.
    c = connect()
    i = c.ask(body(), length=5, end=False)
    assert c.until_ended(i) and (c.stream[i]["status"] == 400 or c.stream[i]["reset"] is not None)
    c = connect()
    i = c.ask(body(), end=False)
    assert c.until_ended(i, seconds=5), "client_body_timeout"
    assert n.idle()


def test_a_hundred_streams_on_one_connection(n, connect):
    c = connect()
    streams = [c.ask(body(tokens=20, delay_ms=5, stream=k % 3 > 0)) for k in range(100)]
    assert c.until_ended(*streams, seconds=20)
    assert all("tok19 " in c.text(i) for i in streams)
    assert n.idle()


# ---- leaving ---------------------------------------------------------------------
@pytest.mark.parametrize("stage", ["headers", "half the body", "body", "head", "token 5", "[DONE]"])
def test_reset_at_every_stage(n, connect, stage):
    c = connect()
    data = body(tokens=1000 if stage != "[DONE]" else 3, delay_ms=10)
    name = f"reset{next(ids)}"
    half = stage in ("headers", "half the body")
    sent = {"headers": b"", "half the body": data[:20]}.get(stage, data)
    i = c.ask(sent, end=not half, request_id=name, length=len(data))
    if stage in ("head", "token 5", "[DONE]"):
        want = {"head": b"data", "token 5": b"tok5 ", "[DONE]": b"[DONE]"}[stage]
        assert c.until(lambda: want in c.stream[i]["data"])
    elif stage == "body":
        assert wait_for(lambda: n.metric("vllm:num_requests_running") >= 1)
    c.reset(i)
    line = n.logged(name)
    assert line, "never logged"
    if half:
        assert line["completion"] == "-"
    elif stage == "[DONE]":
        assert (line["reason"], line["completion"]) == ("stop", "3")
    else:
        assert (line["reason"], line["prompt"]) == ("client_abort", "7"), line
        assert int(line["completion"]) < 500
        assert int(line["completion"]) >= (6 if stage == "token 5" else 0)
    assert n.idle()
    i = c.ask(body(tokens=2))
    assert c.until_ended(i) and "tok1" in c.text(i), "the connection lives on"


def test_a_connection_that_closes_ends_all_its_streams(n, connect):
    before = n.metric("vllm:generation_tokens_total")
    c = connect()
    names = [f"gone{next(ids)}" for _ in range(50)]
    streams = [c.ask(body(tokens=1000, delay_ms=10), request_id=x) for x in names]
    assert c.until(lambda: all(b"tok2 " in c.stream[i]["data"] for i in streams))
    c.close()
    lines = [n.logged(x) for x in names]
    assert all(l.get("reason") == "client_abort" for l in lines), lines
    assert n.idle()
    assert sum(int(l["completion"]) for l in lines) == n.metric("vllm:generation_tokens_total") - before


def test_goaway_lets_streams_finish(n, connect):
    c = connect()
    i = c.ask(body(tokens=20, delay_ms=10))
    assert c.until(lambda: b"tok0" in c.stream[i]["data"])
    # h2 forgets its streams after GOAWAY, so the frame is written by hand: length 8, type 7.
    c.sock.sendall(bytes([0, 0, 8, 7, 0, 0, 0, 0, 0]) + bytes(8))
    assert c.until(lambda: b"[DONE]" in c.stream[i]["data"])
    assert n.idle()


# ---- windows ---------------------------------------------------------------------
def test_a_window_of_zero_that_opens(n, connect):
    c = connect(window=0)
    i = c.ask(body(tokens=200, bytes=1000, delay_ms=1))
    assert c.until(lambda: False, 0.5) is False and c.text(i) == ""
    # Below TLS nginx keeps the header until there is a byte that may follow it.
    assert connect.tls or c.stream[i]["status"] == 200
    made = n.metric("vllm:generation_tokens_total")
    time.sleep(0.2)
    assert n.metric("vllm:generation_tokens_total") == made, "the sequence is parked"
    end = time.time() + 20
    while not c.stream[i]["ended"] and time.time() < end:
        c.h2.increment_flow_control_window(20000, i)
        c.h2.increment_flow_control_window(20000)
        c.flush()
        c.pump(0.05)
    assert c.text(i).endswith("[DONE]\n\n") and c.text(i).count("tok199 ") == 1
    assert n.idle()


def test_a_window_that_stays_closed_is_a_slow_reader_and_others_are_not(n, connect):
    c = connect(window=0)
    name = f"slow{next(ids)}"
    slow = c.ask(body(tokens=100000, bytes=1000), request_id=name)
    other = c.ask(body(tokens=50, delay_ms=10))
    c.h2.increment_flow_control_window(200000, other)
    c.flush()
    assert c.until_ended(other) and "[DONE]" in c.text(other)
    line = n.logged(name, 10)
    assert line["reason"] == "slow_reader" and 0 < int(line["completion"]) < 5000, line
    assert c.until(lambda: c.stream[slow]["reset"] is not None), "its stream is reset"
    assert n.idle()


def test_llm_send_timeout_also_holds_behind_the_end_of_the_engine(n, connect):
    c = connect(window=0)
    name = f"tail{next(ids)}"
    i = c.ask(body(tokens=5), request_id=name)
    assert c.until(lambda: c.stream[i]["reset"] is not None, 6), "its stream is reset"
    line = n.logged(name)
    assert (line["reason"], line["completion"]) == ("stop", "5"), line


def test_the_window_of_the_connection(n, connect):
    c = connect(window=1 << 20)
    streams = [c.ask(body(tokens=100, bytes=1000)) for _ in range(4)]
    assert c.until(lambda: sum(len(s["data"]) for s in c.stream.values()) == 65535, 5)
    end = time.time() + 20
    while not all(c.stream[i]["ended"] for i in streams) and time.time() < end:
        c.h2.increment_flow_control_window(30000)
        c.flush()
        c.pump(0.05)
    assert all(c.text(i).endswith("[DONE]\n\n") for i in streams)
    assert n.idle()


# ---- abuse -----------------------------------------------------------------------
def rapid_resets(n, port, data, count, rng):
    """As fast as the server lets; returns the connections it took."""
    c, connections = H2(port), 1
    for k in range(count):
        if c.closed or c.goaway is not None:
            c.close()
            c, connections = H2(port), connections + 1
        try:
            i = c.ask(data, end=rng.random() < 0.8)
            c.reset(i)
        except h2.exceptions.ProtocolError:
            c.closed = True
        if k % 50 == 49:
            c.pump(0.001)
    c.close()
    return connections


def test_a_thousand_rapid_resets(n):
    seed = random.randrange(2**32)
    print("seed", seed)
    rss, cpu = n.rss_kb(), n.cpu_seconds()
    beside = Beside(n, tokens=200)
    rapid_resets(n, n.port, body(tokens=1000, delay_ms=5), 1000, random.Random(seed))
    assert beside.whole(), "the stream beside them is whole"
    assert beside.worst < 0.5, f"and was late by {beside.worst:.3f} s"
    assert n.idle()
    assert n.rss_kb() - rss < 20000
    assert n.cpu_seconds() - cpu < 3
    assert wait_for(lambda: H2(n.port).ask(body()) == 1)


def test_rapid_resets_with_the_real_engine():
    seed = random.randrange(2**32)
    print("seed", seed)
    n = OwnNginx("listen 127.0.0.1:PORT http2;", engine="demo")
    try:
        data = json.dumps({"model": "demo", "stream": True, "max_tokens": 300, "ignore_eos": True,
                           "messages": [{"role": "user", "content": "Tell me a story."}]}).encode()
        rapid_resets(n, n.port, data, 1000, random.Random(seed))
        assert n.idle(30), "sequences or KV blocks are left"
        c = H2(n.port)
        names = [f"real{k}" for k in range(20)]
        before = n.metric("vllm:generation_tokens_total")
        streams = [c.ask(data, request_id=x) for x in names]
        assert c.until(lambda: all(c.stream[i]["data"].count(b"data:") > 2 for i in streams), 20)
        for i in streams:
            c.reset(i)
        lines = [n.logged(x) for x in names]
        assert n.idle()
        assert all(l.get("reason") == "client_abort" for l in lines), lines
        assert sum(int(l["completion"]) for l in lines) == n.metric("vllm:generation_tokens_total") - before
    finally:
        assert n.stop() == []


def test_a_reload_lets_streams_finish(n):
    c = H2(n.port)
    streams = [c.ask(body(tokens=60, delay_ms=10)) for _ in range(20)]
    assert c.until(lambda: all(b"tok0" in c.stream[i]["data"] for i in streams))
    os.kill(n.master(), signal.SIGHUP)
    assert c.until_ended(*streams)
    assert all("[DONE]" in c.text(i) for i in streams)
    assert c.until(lambda: c.goaway == 0), "and says so with GOAWAY"
    assert n.idle()
