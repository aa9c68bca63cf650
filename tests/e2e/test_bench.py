"""test_bench.py - nginx-llm-bench against the real engine, the mock engine with
known delays, and servers that misbehave.

Times have hard lower bounds, because a server that waits cannot answer sooner,
and loose upper ones, because the machine may be loaded.
"""
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

from conftest import ROOT, free_port
from own_nginx import BIN, OwnNginx

DEMO = ROOT / "models" / "demo"
BENCH = BIN / "nginx-llm-bench"
LOAD = BIN / "nginx-llm-load"
METRICS = ("ttft", "tpot", "itl", "e2el")


@pytest.fixture(scope="module", autouse=True)
def program():
    subprocess.run(["make", "-s", *(str(p.relative_to(ROOT)) for p in (BENCH, LOAD))], cwd=ROOT, check=True,
                   env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")})


@pytest.fixture(scope="module")
def mock():
    n = OwnNginx("listen 127.0.0.1:PORT;", engine="mock")
    yield f"http://127.0.0.1:{n.port}"
    assert n.stop() == []


def bench(*args, code=0):
    p = subprocess.run([str(BENCH), *map(str, args)], capture_output=True, text=True, timeout=120)
    assert p.returncode == code, p.stdout + p.stderr
    return p


def serve(url, tmp_path, *args, code=0, model="mock"):
    """Runs `serve`; returns what it printed and its JSON."""
    out = tmp_path / "result.json"
    p = bench("serve", "--base-url", url, "--model", model, "--tokenizer", DEMO,
              "--random-input-len", 16, "--percentile-metrics", "ttft,tpot,itl,e2el",
              "--output-json", out, *args, code=code)
    return p.stdout, json.loads(out.read_text())


# ---- the real engine -------------------------------------------------------------

def test_lengths_are_exact_and_the_table_is_vllm_s(url, tmp_path):
    text, r = serve(url, tmp_path, "--num-prompts", 24, "--random-input-len", 77,
                    "--random-output-len", 12, "--ignore-eos", "--max-concurrency", 4,
                    "--metric-percentiles", "50,90,99", model="demo")
    assert r["completed"] == 24 and r["failed"] == 0
    assert r["total_input_tokens"] == 24 * 77
    assert r["total_output_tokens"] == 24 * 12
    assert 1 <= r["max_concurrent_requests"] <= 4
    assert r["request_throughput"] == pytest.approx(24 / r["duration"])
    assert r["total_token_throughput"] == pytest.approx(24 * 89 / r["duration"])
    for m in METRICS:
        for figure in ("mean", "median", "std", "p50", "p90", "p99"):
            assert r[f"{figure}_{m}_ms"] >= 0
        assert r[f"p50_{m}_ms"] == r[f"median_{m}_ms"] <= r[f"p90_{m}_ms"] <= r[f"p99_{m}_ms"]
    assert r["mean_e2el_ms"] >= r["mean_ttft_ms"] > 0
    lines = text.splitlines()
    assert "============ Serving Benchmark Result ============" in lines
    assert "---------------Time to First Token----------------" in lines
    assert "-----Time per Output Token (excl. 1st token)------" in lines
    assert "---------------Inter-token Latency----------------" in lines
    assert "----------------End-to-end Latency----------------" in lines
    assert f"{'Successful requests:':<40} {24:<10}" in lines
    assert f"{'Total generated tokens:':<40} {288:<10}" in lines
    assert f"{'P99 TTFT (ms):':<40} {r['p99_ttft_ms']:<10.2f}" in lines
    assert "% of one CPU core" in lines[-1]


def test_token_ids_and_shared_prefixes_have_exact_lengths_too(url, tmp_path):
    _, r = serve(url, tmp_path, "--num-prompts", 5, "--random-input-len", 50, "--random-as-tokens",
                 "--random-output-len", 3, "--ignore-eos", model="demo")
    assert (r["completed"], r["total_input_tokens"], r["total_output_tokens"]) == (5, 250, 15)
    _, r = serve(url, tmp_path, "--num-prompts", 8, "--dataset-name", "prefix_repetition",
                 "--prefix-repetition-prefix-len", 40, "--prefix-repetition-suffix-len", 9,
                 "--prefix-repetition-num-prefixes", 2, "--prefix-repetition-output-len", 4,
                 "--ignore-eos", model="demo")
    assert (r["completed"], r["total_input_tokens"], r["total_output_tokens"]) == (8, 392, 32)


def test_chats_and_sharegpt(url, tmp_path):
    talk = [{"conversations": [{"from": "human", "value": "What is the capital of Thailand?"},
                               {"from": "gpt", "value": "The capital of Thailand is Bangkok."}]}]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps(talk))
    _, r = serve(url, tmp_path, "--backend", "openai-chat", "--dataset-name", "sharegpt",
                 "--dataset-path", path, "--num-prompts", 3, "--temperature", 0,
                 "--sharegpt-output-len", 30, "--save-detailed", model="demo")
    assert r["completed"] == 3
    assert len(r["generated_texts"]) == 3 and "Bangkok" in r["generated_texts"][0]
    assert len(r["ttfts"]) == len(r["itls"]) == len(r["errors"]) == 3
    assert r["output_lens"][0] >= len(r["itls"][0])
    assert r["errors"] == ["", "", ""]


# ---- known delays -----------------------------------------------------------------

def delays(tokens, first_ms, delay_ms, **more):
    return json.dumps({"mock": {"tokens": tokens, "first_ms": first_ms, "delay_ms": delay_ms, **more}})


def test_latencies_are_those_of_the_server(mock, tmp_path):
    text, r = serve(mock, tmp_path, "--num-prompts", 12, "--max-concurrency", 6,
                    "--random-output-len", 5, "--extra-body", delays(5, 500, 200),
                    "--goodput", "ttft:450", "e2el:60000")
    assert r["completed"] == 12 and r["total_output_tokens"] == 60
    assert 480 <= r["median_ttft_ms"] <= 900
    assert 180 <= r["median_itl_ms"] <= 320
    assert 190 <= r["median_tpot_ms"] <= 320
    assert 1250 <= r["median_e2el_ms"] <= 2400
    assert r["max_concurrent_requests"] == 6
    assert 2.5 <= r["duration"] <= 6            # two rounds of six
    assert r["request_goodput"] == 0            # nobody has a TTFT of 450 ms
    assert "Request goodput (req/s):" in text


def test_goodput_counts_requests_that_keep_every_goal(mock, tmp_path):
    args = ("--num-prompts", 4, "--random-output-len", 3, "--extra-body", delays(3, 100, 100))
    _, r = serve(mock, tmp_path, *args, "--goodput", "ttft:30000", "tpot:30000", "e2el:60000")
    assert r["request_goodput"] == r["request_throughput"] > 0
    _, r = serve(mock, tmp_path, *args, "--goodput", "ttft:30000", "tpot:50")
    assert r["request_goodput"] == 0
    _, r = serve(mock, tmp_path, *args)
    assert r["request_goodput"] is None


def test_requests_come_at_the_rate(mock, tmp_path):
    _, r = serve(mock, tmp_path, "--num-prompts", 30, "--random-output-len", 2, "--save-detailed",
                 "--extra-body", delays(2, 0, 0), "--request-rate", 15, "--burstiness", "inf")
    assert r["completed"] == 30 and r["request_rate"] == 15 and r["burstiness"] == "inf"
    gaps = [b - a for a, b in zip(r["start_times"], r["start_times"][1:])]
    assert r["start_times"][-1] == pytest.approx(2.0, abs=0.3)
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(1 / 15, abs=0.02)
    assert all(t >= (i + 1) / 15 - 0.001 for i, t in enumerate(r["start_times"]))


def test_warm_ups_are_not_counted_and_metadata_is_kept(mock, tmp_path):
    text, r = serve(mock, tmp_path, "--num-prompts", 3, "--random-output-len", 2,
                    "--num-warmups", 4, "--ready-check-timeout-sec", 30, "--metadata",
                    "tp=1", "note=a b", "--extra-body", delays(2, 0, 0))
    assert r["completed"] == 3 and r["tp"] == "1" and r["note"] == "a b"
    assert "Warming up with 4 requests..." in text and "Initial test run completed." in text


def test_ten_thousand_events_a_second_are_no_load(mock, tmp_path):
    _, r = serve(mock, tmp_path, "--num-prompts", 64, "--random-output-len", 300,
                 "--extra-body", delays(300, 0, 5))
    assert r["completed"] == 64 and r["total_output_tokens"] == 64 * 300
    assert r["client_events"] >= 64 * 2
    assert r["client_cpu_percent"] < 70
    assert r["client_longest_turn_ms"] < 200


# ---- servers that misbehave -----------------------------------------------------------

TOKEN = b'data: {"choices":[{"index":0,"text":"a b c","finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"text":"d","finish_reason":"length"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":16,"completion_tokens":12}}\n\n'
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = SSE + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


GOOD = CHUNKED + chunk(TOKEN) + chunk(TOKEN + LAST) + chunk(USAGE + b"data: [DONE]\n\n") + b"0\r\n\r\n"


def document(status, body):
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status, len(body), body)


class Server:
    """Answers the n-th request it gets with answers[n % len]: bytes, and then
    "close", "keep" or "hang"."""

    def __init__(self, *answers):
        self.answers, self.num, self.connections, self.bodies = answers, 0, 0, []
        self.lock = threading.Lock()
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = "http://127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                conn, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(conn,), daemon=True).start()

    def talk(self, conn):
        with conn:
            f = conn.makefile("rb")
            while True:
                length = 0
                for line in iter(f.readline, b"\r\n"):
                    if not line:
                        return
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = f.read(length)
                with self.lock:
                    self.bodies.append(body)
                    data, then = self.answers[self.num % len(self.answers)]
                    self.num += 1
                conn.sendall(data)
                if then == "hang":
                    f.read()
                if then != "keep":
                    return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def test_chunks_of_several_tokens_are_counted_by_usage(tmp_path):
    with Server((GOOD, "keep")) as s:
        _, r = serve(s.url, tmp_path, "--num-prompts", 10, "--max-concurrency", 2)
        assert r["completed"] == 10 and r["total_output_tokens"] == 120
        assert r["total_input_tokens"] == 160
        assert r["tokens_per_chunk"] == pytest.approx(4)
        assert s.connections == 2               # kept alive


def test_a_kept_connection_that_was_closed_is_no_error(tmp_path):
    with Server((GOOD, "close")) as s:
        _, r = serve(s.url, tmp_path, "--num-prompts", 10, "--max-concurrency", 1)
        assert r["completed"] == 10 and r["failed"] == 0
        assert s.connections == 10


def test_streams_without_length_end_with_the_connection(tmp_path):
    with Server((SSE + b"\r\n" + TOKEN + LAST, "close")) as s:
        _, r = serve(s.url, tmp_path, "--num-prompts", 4)
        assert r["completed"] == 4
        assert r["total_output_tokens"] == 8    # chunks, as nobody says better


def test_every_kind_of_bad_answer_is_counted_and_none_is_fatal(tmp_path):
    cut = CHUNKED + chunk(TOKEN)
    error = chunk(b'data: {"error":{"message":"engine lost","code":500}}\n\n')
    with Server((GOOD, "keep"),
                (document(b"503 Service Unavailable", b'{"error":{"message":"too busy"}}'), "keep"),
                (cut, "close"),
                (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "close"),
                (b"", "close"),
                (cut + error + b"0\r\n\r\n", "keep"),
                (document(b"200 OK", b'{"choices":[]}'), "keep"),
                (CHUNKED + chunk(b"data: {oops\n\n") + b"0\r\n\r\n", "keep"),
                (cut + b"0\r\n\r\n", "keep"),
                (CHUNKED + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n", "keep"),
                (cut, "hang")) as s:
        text, r = serve(s.url, tmp_path, "--num-prompts", 22, "--max-concurrency", 1,
                        "--timeout", 1, "--save-detailed")
    kinds = r["errors_by_kind"]
    # A kept connection that ends without an answer is asked again: then the
    # server's next answer counts, so (b"", "close") shows only on a fresh one.
    assert r["completed"] >= 2 and r["completed"] + r["failed"] == 22
    assert sum(kinds.values()) == r["failed"]
    assert {"HTTP 503", "stream cut", "not an HTTP answer", "error event",
            "answer is no event stream", "event is not understood", "no token",
            "timeout"} <= set(kinds)
    assert any("HTTP 503: too busy" in e for e in r["errors"])
    assert any("error event: engine lost" in e for e in r["errors"])
    assert "Failed requests during benchmark run detected (capping to 10):" in text


def test_what_a_server_says_in_other_encodings_leaves_the_result_utf_8(tmp_path):
    latin = document(b"500 Oops", b"<html>\r\n\x1b[31mcaf\xe9 \xc3</html>")
    cut = document(b"500 Oops", b'{"error":{"message":"xy%s"}}' % ("é" * 400).encode())
    with Server((latin, "keep"), (cut, "keep")) as s:
        _, r = serve(s.url, tmp_path, "--num-prompts", 2, "--max-concurrency", 1, "--save-detailed", code=1)
    assert r["errors"][0] == "HTTP 500: <html>   [31mcaf? ?</html>"
    assert r["errors"][1].startswith("HTTP 500: xy" + "é" * 100)


def test_a_stream_may_end_without_its_last_empty_line(tmp_path):
    with Server((CHUNKED + chunk(TOKEN + LAST) + chunk(USAGE[:-2]) + b"0\r\n\r\n", "keep")) as s:
        _, r = serve(s.url, tmp_path, "--num-prompts", 3)
    assert r["completed"] == 3 and r["total_output_tokens"] == 36


def test_a_signal_leaves_the_figures_of_the_answers_so_far(tmp_path):
    out = tmp_path / "result.json"
    with Server(*[(GOOD, "keep")] * 5, (CHUNKED + chunk(TOKEN), "hang")) as s:
        p = subprocess.Popen([str(BENCH), "serve", "--base-url", s.url, "--model", "m", "--tokenizer",
                              str(DEMO), "--num-prompts", "1000", "--max-concurrency", "1",
                              "--output-json", str(out)], stdout=subprocess.PIPE, text=True)
        while s.num < 6:
            time.sleep(0.01)
        p.send_signal(signal.SIGINT)
        text, _ = p.communicate(timeout=30)
    assert p.returncode == 0 and "Interrupted: 6 of 1000 requests had begun" in text
    r = json.loads(out.read_text())
    assert (r["completed"], r["failed"], r["errors_by_kind"]) == (5, 1, {"interrupted": 1})
    assert r["total_output_tokens"] == 60


def test_a_signal_before_the_first_answer_is_no_misconfiguration():
    with Server((b"", "hang")) as s:
        p = subprocess.Popen([str(BENCH), "serve", "--base-url", s.url, "--model", "m", "--tokenizer",
                              str(DEMO), "--num-prompts", "3"], stderr=subprocess.PIPE, text=True)
        while s.num < 3:
            time.sleep(0.01)
        p.terminate()
        _, text = p.communicate(timeout=30)
    assert p.returncode == 1 and "interrupted before the first answer" in text


@pytest.mark.parametrize("args, there", [
    ((), True), (("--no-ignore-eos",), False), (("--dataset-name", "prefix_repetition"), False),
    (("--dataset-name", "prefix_repetition", "--ignore-eos"), True),
])
def test_random_prompts_ask_for_the_full_length_as_in_vllm(tmp_path, args, there):
    with Server((GOOD, "keep")) as s:
        serve(s.url, tmp_path, "--num-prompts", 10, *args)
    assert {json.loads(b).get("ignore_eos", False) for b in s.bodies} == {there}


def test_a_ramp_is_told_from_all_at_once(tmp_path):
    with Server((GOOD, "keep")) as s:
        ramp = ("--num-prompts", 20, "--ramp-up-strategy", "linear", "--ramp-up-start-rps", 50,
                "--ramp-up-end-rps", 200)
        _, r = serve(s.url, tmp_path, *ramp)
        assert (r["ramp_up_strategy"], r["ramp_up_start_rps"], r["ramp_up_end_rps"]) == ("linear", 50, 200)
        bench("serve", "--base-url", s.url, "--model", "a/m", "--tokenizer", DEMO, *ramp, "--save-result",
              "--result-dir", tmp_path / "out")
    name, = os.listdir(tmp_path / "out")
    assert name.startswith("openai-ramp-up-linear-50qps-200qps-m-")


def test_the_ready_check_ends_when_it_said():
    with Server((b"", "hang")) as s:
        began = time.time()
        p = bench("serve", "--base-url", s.url, "--model", "m", "--tokenizer", DEMO,
                  "--ready-check-timeout-sec", 1, code=1)
    assert "Initial test run failed" in p.stderr and "timeout" in p.stderr
    assert time.time() - began < 20


def test_no_server_at_all(tmp_path):
    text, r = serve(f"http://127.0.0.1:{free_port()}", tmp_path, "--num-prompts", 7, code=1)
    assert r["completed"] == 0 and r["failed"] == 7
    assert r["errors_by_kind"] == {"connect: Connection refused": 7}
    assert f"{'Failed requests:':<40} {7:<10}" in text.splitlines()


def test_a_server_that_closes_at_once(tmp_path):
    with Server((b"", "close")) as s:
        _, r = serve(s.url, tmp_path, "--num-prompts", 5, code=1)
    assert r["errors_by_kind"] == {"closed without an answer": 5}


def test_an_overloaded_and_a_crashing_engine(mock, tmp_path):
    _, r = serve(mock, tmp_path, "--num-prompts", 6, "--extra-body",
                 json.dumps({"mock": {"refuse": True}}), code=1)
    assert r["errors_by_kind"] == {"HTTP 503": 6}
    _, r = serve(mock, tmp_path, "--num-prompts", 6, "--random-output-len", 8,
                 "--extra-body", delays(8, 0, 20, no_done=True, error_event=True), code=1)
    assert r["failed"] == 6


# ---- nginx-llm-load -------------------------------------------------------------------

def load(url, *args, code=0):
    p = subprocess.run([str(LOAD), "--port", url.rsplit(":", 1)[1], "--path", "/x", "--body", "{}",
                        "--output-json", *map(str, args)], capture_output=True, text=True, timeout=60)
    assert p.returncode == code, p.stdout + p.stderr
    return json.loads(p.stdout) if code == 0 else p.stderr


def test_load_counts_requests_from_the_end_of_the_warm_up():
    with Server((GOOD, "keep")) as s:
        r = load(s.url, "--requests", 20, "--warmup-ms", 300, "--seconds", 10)
    assert r["requests"] == 20 and r["errors"] == 0
    assert r["seconds"] < 5 and r["requests_per_s"] == pytest.approx(20 / r["seconds"], rel=0.01)


def test_load_reads_answers_that_end_with_the_connection():
    with Server((SSE + b"\r\n" + TOKEN + LAST, "close")) as s:
        r = load(s.url, "--requests", 5, "--warmup-ms", 0)
    assert r["requests"] == 5 and r["errors"] == 0 and r["events"] == 10


def test_load_names_a_process_that_it_cannot_watch():
    with Server((GOOD, "keep")) as s:
        assert '--watch: "x=0"' in load(s.url, "--watch", "x=0", code=1)


# ---- the engine in the process ------------------------------------------------------------

def test_latency_prints_what_vllm_prints(tmp_path):
    out = tmp_path / "latency.json"
    p = bench("latency", "--model", DEMO, "--device", "cpu", "--batch-size", 3, "--input-len", 20,
              "--output-len", 10, "--num-iters-warmup", 1, "--num-iters", 4, "--output-json", out)
    r = json.loads(out.read_text())
    assert len(r["latencies"]) == 4
    assert r["avg_latency"] == pytest.approx(sum(r["latencies"]) / 4)
    assert list(r["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    lines = p.stdout.splitlines()
    assert lines[0].startswith("Avg latency: ") and lines[0].endswith(" seconds")
    assert [l.split("%")[0] for l in lines[1:7]] == list(r["percentiles"])
    assert all("% percentile latency: " in l for l in lines[1:7])


def test_latency_shows_its_progress_on_a_terminal():
    master, slave = pty.openpty()
    p = subprocess.Popen([str(BENCH), "latency", "--model", str(DEMO), "--device", "cpu", "--batch-size",
                          "1", "--output-len", "64", "--num-iters-warmup", "5", "--num-iters", "95"],
                         stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:             # EIO: nobody writes any more
        pass
    os.close(master)
    assert p.wait(timeout=60) == 0
    assert b"rounds/s" in shown and b"] 100/100 " in shown


@pytest.mark.parametrize("ahead", ["--async-scheduling", "--no-async-scheduling"])
def test_throughput_of_a_model_of_which_only_the_config_exists(tmp_path, ahead):
    shutil.copy(DEMO / "config.json", tmp_path)
    out = tmp_path / "throughput.json"
    p = bench("throughput", "--model", tmp_path, "--load-format", "dummy", "--device", "cpu",
              "--num-prompts", 40, "--random-input-len", 30, "--random-output-len", 8,
              "--max-num-seqs", 8, "--max-num-queued-reqs", 4, ahead, "--output-json", out)
    r = json.loads(out.read_text())
    assert r["num_requests"] == 40 and r["total_num_tokens"] == 40 * 38
    assert r["tokens_per_second"] == pytest.approx(1520 / r["elapsed_time"])
    assert p.stdout.startswith("Throughput: ")
    assert "Total num prompt tokens:  1200" in p.stdout
    assert "Total num output tokens:  320" in p.stdout


def test_throughput_with_text_and_every_data_set(tmp_path):
    p = bench("throughput", "--model", DEMO, "--device", "cpu", "--num-prompts", 10,
              "--dataset-name", "prefix_repetition", "--prefix-repetition-prefix-len", 40,
              "--prefix-repetition-suffix-len", 8, "--prefix-repetition-num-prefixes", 2,
              "--output-len", 4)
    assert "Total num prompt tokens:  480" in p.stdout
    p = bench("throughput", "--model", DEMO, "--device", "cpu", "--num-prompts", 4,
              "--input-len", 9, "--output-len", 3000, code=1)
    assert "max_model_len" in p.stderr


def test_a_signal_leaves_the_figures_so_far(tmp_path):
    out = tmp_path / "throughput.json"
    p = subprocess.Popen([str(BENCH), "throughput", "--model", str(DEMO), "--device", "cpu",
                          "--num-prompts", "30000", "--random-input-len", "8",
                          "--random-output-len", "8", "--output-json", str(out)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if "ready after" in line:
            break
    time.sleep(3)           # not what is waited for: whatever there is by then counts
    p.send_signal(signal.SIGINT)
    text, _ = p.communicate(timeout=60)
    assert p.returncode == 0
    assert text.startswith("Interrupted: ")
    r = json.loads(out.read_text())
    assert 0 < r["num_requests"] < 30000
    assert r["tokens_per_second"] == pytest.approx(r["total_num_tokens"] / r["elapsed_time"])


def test_a_signal_ends_what_has_no_figures_yet(tmp_path):
    fifo = tmp_path / "never.json"
    os.mkfifo(fifo)
    p = subprocess.Popen([str(BENCH), "throughput", "--model", str(DEMO), "--device", "cpu",
                          "--dataset-name", "sharegpt", "--dataset-path", str(fifo)],
                         stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if "ready after" in line:
            break
    time.sleep(0.2)
    p.terminate()
    assert p.wait(timeout=10) == -signal.SIGTERM


def test_an_engine_without_a_tokenizer_takes_token_ids_only(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(DEMO / "config.json", model)
    n = OwnNginx("listen 127.0.0.1:PORT;", engine="real",
                 lines=f"model {model}; served_model_name d; load_format dummy; "
                       "skip_tokenizer_init on; device cpu;")
    url = f"http://127.0.0.1:{n.port}"
    try:
        def ask(path, **body):
            return httpx.post(url + path, json={"model": "d", **body})
        r = ask("/v1/completions", prompt="text")
        assert r.status_code == 400 and r.json()["error"]["param"] == "prompt"
        assert "token ids" in r.json()["error"]["message"]
        r = ask("/v1/chat/completions", messages=[{"role": "user", "content": "x"}])
        assert r.status_code == 400
        r = ask("/v1/completions", prompt=[1, 2, 3], max_tokens=4, ignore_eos=True)
        assert r.json()["usage"]["completion_tokens"] == 4
        p = bench("serve", "--base-url", url, "--model", "d", "--tokenizer", model,
                  "--random-as-tokens", "--random-input-len", 20, "--random-output-len", 6,
                  "--num-prompts", 5, "--ignore-eos")
        assert f"{'Total input tokens:':<40} {100:<10}" in p.stdout
        assert f"{'Total generated tokens:':<40} {30:<10}" in p.stdout
    finally:
        assert n.stop() == []


# ---- switches ---------------------------------------------------------------------------------

SERVE = ("serve", "--base-url", "http://127.0.0.1:9", "--model", "m", "--tokenizer", str(DEMO))


@pytest.mark.parametrize("args, code, words", [
    ((), 2, ["latency|throughput|serve"]),
    (("bench",), 2, ['no mode "bench"']),
    (("serve", "--num-prompt", "3"), 2, ["--num-prompt;", "--num-prompts"]),
    (("latency", "--batch-size", "0"), 2, ["--batch-size", "1 .. 4096"]),
    (("latency",), 1, ["--model DIR is required"]),
    (("throughput", "--dataset-name", "sonnet"), 2, ["random|sharegpt|prefix_repetition"]),
    (("throughput", "--model", str(DEMO), "--device", "cpu", "--dataset-name", "sharegpt"), 1,
     ["--dataset-path"]),
    (("throughput", "--model", str(DEMO), "--dataset-name", "sharegpt", "--dataset-path", "/x.json"), 1,
     ["--dataset-path /x.json: No such file"]),
    ((*SERVE, "--dataset-path", "/x.json"), 1, ["--dataset-path", "random reads no file"]),
    (("serve", "--base-url", "http://127.0.0.1:9"), 1, ["--model NAME"]),
    (("serve", "--base-url", "https://x", "--model", "m"), 1, ["--base-url", "TLS"]),
    (("serve", "--base-url", "http://127.0.0.1:9", "--model", "m"), 1, ["--tokenizer DIR"]),
    ((*SERVE, "--request-rate", "0"), 1, ["--request-rate"]),
    ((*SERVE, "--burstiness", "0"), 1, ["--burstiness"]),
    ((*SERVE, "--goodput", "itl:5"), 1, ["--goodput", "itl:5"]),
    ((*SERVE, "--percentile-metrics", "ttft,latency"), 1, ["--percentile-metrics", "latency"]),
    ((*SERVE, "--metric-percentiles", "101"), 1, ["--metric-percentiles", "101"]),
    ((*SERVE, "--endpoint", "/v1/embeddings"), 1, ["--endpoint"]),
    ((*SERVE, "--extra-body", "{"), 1, ["--extra-body"]),
    ((*SERVE, "--header", "nonsense"), 1, ["--header"]),
    ((*SERVE, "--top-k", "many"), 1, ["--top-k", "many"]),
    ((*SERVE, "--metadata", "x"), 1, ["--metadata", "KEY=VALUE"]),
    ((*SERVE, "--random-as-tokens", "--endpoint", "/v1/chat/completions"), 1,
     ["--random-as-tokens"]),
    ((*SERVE, "--ramp-up-strategy", "exponential", "--ramp-up-end-rps", "5"), 1, ["--ramp-up"]),
    ((*SERVE, "--num-prompts", "4", "--output-json", "/nonexistent/x"), 1, ["/nonexistent/x"]),
    ((*SERVE, "--save-result", "--result-dir", "/nonexistent/x"), 1, ["--result-dir /nonexistent/x"]),
    ((*SERVE, "--save-result", "--result-filename", "/nonexistent/x"), 1, ["/nonexistent/x"]),
    (("latency", "--model", str(DEMO), "--output-json", "/nonexistent/x"), 1, ["/nonexistent/x"]),
    (("throughput", "--model", str(DEMO), "--output-json", "/"), 1, ["/: Is a directory"]),
])
def test_a_wrong_switch_is_named(args, code, words):
    p = bench(*args, code=code)
    for w in words:
        assert w in p.stderr
    assert p.stdout == "" and "ready after" not in p.stderr     # nothing was measured before


def test_a_result_directory_is_made_and_a_file_there_outlives_a_failed_run(tmp_path):
    old = tmp_path / "old.json"
    old.write_text("kept")
    failing = (*SERVE, "--dataset-name", "prefix_repetition", "--num-prompts", 1)
    bench(*failing, "--output-json", old, code=1)
    assert old.read_text() == "kept"
    bench(*failing, "--output-json", tmp_path / "new.json", code=1)
    assert sorted(os.listdir(tmp_path)) == ["old.json"]
    with Server((GOOD, "keep")) as s:
        bench("serve", "--base-url", s.url, "--model", "m", "--tokenizer", DEMO, "--num-prompts", 2,
              "--save-result", "--result-dir", tmp_path / "new")
    name, = os.listdir(tmp_path / "new")
    assert name.startswith("openai-infqps-m-") and name.endswith(".json")


@pytest.mark.parametrize("mode, some", [
    ("latency", ["--num-iters-warmup N", "--max-num-batched-tokens", "--load-format"]),
    ("throughput", ["--random-range-ratio", "--max-num-seqs", "--async-scheduling"]),
    ("serve", ["--burstiness", "--goodput", "--percentile-metrics", "--request-rate"]),
])
def test_help_lists_the_switches_of_a_mode(mode, some):
    p = bench(mode, "--help")
    for s in some:
        assert s in p.stdout
