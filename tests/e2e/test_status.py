"""test_status.py - metrics, alerts, dashboard and the status page, each checked
by the program that will read it: promtool, prometheus_client, Chromium.

What needs promtool or Chromium says why it is skipped where they are missing.
"""
import http.server
import json
import math
import re
import shutil
import subprocess
import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import chromium
from conftest import ROOT

DEPLOY = ROOT / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    not PROMTOOL, reason="promtool is not installed (Debian's package prometheus)")
needs_chromium = pytest.mark.skipif(
    not chromium.find(), reason="no Chromium is installed (Debian's package chromium)")

HOSTILE = "<img src=x onerror=document.title='owned'>"
CSP = "default-src 'self' 'unsafe-inline'"

# vLLM's names are what they are.
ACCEPTED = (re.compile(r"^vllm:\S+ metric names should not contain ':'$"),
            re.compile(r'^vllm:iteration_tokens_total non-counter metrics should not '
                       r'have "_total" suffix$'))


@pytest.fixture(scope="module")
def pages(url):
    """Both texts after some traffic of several kinds."""
    body = {"model": "demo", "prompt": "Hello", "max_tokens": 8}
    for stream in (False, True, True):
        r = httpx.post(url + "/v1/completions", json={**body, "stream": stream}, timeout=60)
        assert r.status_code == 200
    assert httpx.post(url + "/v1/completions", json={**body, "max_tokens": -1}).status_code == 400
    assert httpx.get(url + "/v1/nothing").status_code == 404
    assert httpx.get(url + "/health/deep").json() == {"status": "ready", "engines": {"demo": "ready"}}
    end = time.time() + 10
    while True:     # an engine publishes its statistics four times a second
        texts = {"engine": httpx.get(url + "/metrics").text,
                 "nginx": httpx.get(url + "/status").text}
        if time.time() > end or (
                total(texts["nginx"], "nginx_llm_engine_generation_tokens_total")
                == total(texts["engine"], "vllm:generation_tokens_total")):
            return texts
        time.sleep(0.05)


def total(text, name, **labels):
    """Sum of a metric's samples that have these labels."""
    return sum(s.value for f in text_string_to_metric_families(text) for s in f.samples
               if s.name == name and labels.items() <= s.labels.items())


def promtool(*args, stdin=None):
    r = subprocess.run([PROMTOOL, *args], input=stdin, text=True, timeout=60,
                       capture_output=True, cwd=DEPLOY / "prometheus")
    return r.returncode, r.stdout + r.stderr


@needs_promtool
@pytest.mark.parametrize("page", ["engine", "nginx"])
def test_promtool_finds_nothing_wrong_with_the_metrics(pages, page):
    said = promtool("check", "metrics", stdin=pages[page])[1]
    left = [l for l in said.splitlines() if l and not any(a.match(l) for a in ACCEPTED)]
    assert left == []


@pytest.mark.parametrize("page", ["engine", "nginx"])
def test_every_line_is_of_its_family_and_no_series_comes_twice(pages, page):
    seen, typed, helped = set(), {}, set()
    family = None
    for line in pages[page].splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in helped, f"{family} is there twice"
            assert len(line.split()) > 3
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == family, "TYPE follows its HELP"
            typed[name] = kind
        else:
            series, value = line.rsplit(" ", 1)
            assert series not in seen, f"{series} is there twice"
            seen.add(series)
            float(value)
            name = series.split("{")[0]
            ends = ("_bucket", "_sum", "_count") if typed[family] == "histogram" else ("",)
            assert name in [family + e for e in ends], f"{series} below {family}"
            if typed[family] == "counter":
                assert name.endswith("_total"), name
    assert helped == set(typed)


@pytest.mark.parametrize("page", ["engine", "nginx"])
def test_histograms_are_consistent_for_the_python_client(pages, page):
    found = 0
    for family in text_string_to_metric_families(pages[page]):
        if family.type != "histogram":
            continue
        series = {}
        for s in family.samples:
            labels = {k: v for k, v in s.labels.items() if k != "le"}
            entry = series.setdefault(json.dumps(labels, sort_keys=True), {"buckets": []})
            if s.name.endswith("_bucket"):
                entry["buckets"].append((float(s.labels["le"]), s.value))
            else:
                entry[s.name.rsplit("_", 1)[1]] = s.value
        for name, e in series.items():
            bounds = [b for b, _ in e["buckets"]]
            counts = [c for _, c in e["buckets"]]
            assert bounds == sorted(set(bounds)) and bounds[-1] == math.inf, (family.name, name)
            assert counts == sorted(counts), (family.name, name)
            assert counts[-1] == e["count"]
            assert e["sum"] >= 0 and (e["sum"] > 0) <= (e["count"] > 0)
            found += 1
    assert found >= 6


def test_both_sides_count_the_same(pages):
    nginx = total(pages["nginx"], "nginx_llm_requests_total", model="demo")
    assert nginx >= 3
    # The health request is one of the engine's, and of no client.
    assert total(pages["engine"], "vllm:e2e_request_latency_seconds_count") >= nginx + 1
    assert total(pages["nginx"], "nginx_llm_engine_generation_tokens_total") == \
        total(pages["engine"], "vllm:generation_tokens_total")
    assert total(pages["nginx"], "nginx_llm_requests_total", engine="demo", status="400") >= 1
    assert total(pages["nginx"], "nginx_llm_request_errors_total", reason="not_found") >= 1


def test_vllms_names_and_labels_are_there(pages):
    names = {}
    for f in text_string_to_metric_families(pages["engine"]):
        for s in f.samples:
            names.setdefault(s.name, s.labels)
    for name in """num_requests_running num_requests_waiting num_requests_swapped
            kv_cache_usage_perc gpu_cache_usage_perc num_preemptions_total prompt_tokens_total
            generation_tokens_total request_prompt_tokens_total request_generation_tokens_total
            time_to_first_token_seconds_bucket inter_token_latency_seconds_bucket
            time_per_output_token_seconds_bucket e2e_request_latency_seconds_bucket
            request_queue_time_seconds_bucket request_prefill_time_seconds_bucket
            request_decode_time_seconds_bucket request_success_total cache_config_info""".split():
        assert names["vllm:" + name]["model_name"] == "demo", name


# ---- deploy/ ---------------------------------------------------------------------
@needs_promtool
@pytest.mark.parametrize("args", [("check", "config", "prometheus.yml"),
                                  ("check", "rules", "alerts.yml"),
                                  ("test", "rules", "alerts_test.yml")])
def test_promtool_accepts_the_files_of_deploy(args):
    rc, said = promtool(*args)
    assert rc == 0, said


def names_in(expr):
    """Metric names of an expression: words before { or [, and bare nginx_llm_ ones."""
    return set(re.findall(r"\b(?:nginx_llm_|vllm:)\w+", expr))


def known_names(pages):
    names = set()
    for text in pages.values():
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                names |= {name + e for e in ("_bucket", "_sum", "_count")} \
                    if kind == "histogram" else {name}
    return names


def test_every_metric_of_an_alert_is_one_of_ours(pages):
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    used = names_in("\n".join(l for l in text.splitlines() if not l.startswith("#")))
    assert len(used) > 8
    assert used <= known_names(pages), used - known_names(pages)


def test_dashboard(pages):
    d = json.loads((DEPLOY / "grafana" / "nginx-llm.json").read_text())
    ids = [p["id"] for p in d["panels"]]
    assert len(ids) == len(set(ids)) > 20
    variables = {v["name"]: v for v in d["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    known = known_names(pages)
    used = set()
    for p in d["panels"]:
        if p["type"] == "row":
            continue
        assert p["datasource"]["uid"] == "${datasource}", p["title"]
        box = p["gridPos"]
        assert box["x"] + box["w"] <= 24
        for t in p["targets"]:
            names = names_in(t["expr"])
            assert names, t["expr"]
            used |= names
            for v in re.findall(r"\$(\w+)", t["expr"]):
                assert v in variables or v == "__rate_interval", v
    for v in variables.values():
        if v["type"] == "query":
            used |= names_in(v["query"]["query"])
    assert used <= known, used - known
    assert any(n.startswith("vllm:") for n in used)


# ---- the page --------------------------------------------------------------------
class Front(http.server.ThreadingHTTPServer):
    """status.html as nginx sends it, behind a policy, with figures of our own."""

    def __init__(self, figures):
        page = (ROOT / "ngx_http_llm_module" / "status.html").read_bytes()
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                is_json = "format=json" in self.path
                body = json.dumps(figures()).encode() if is_json else page
                self.send_response(200)
                self.send_header("Content-Type", "application/json" if is_json
                                 else "text/html; charset=utf-8")
                self.send_header("Content-Security-Policy", CSP)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/status"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@needs_chromium
@pytest.mark.parametrize("width,dark", [(1200, False), (390, True)])
def test_the_page_shows_what_nginx_counts(url, pages, tmp_path, width, dark):
    with chromium.Chromium() as c:
        p = c.page(url + "/status", width=width, dark=dark)
        assert p.wait("document.getElementById('live').textContent === 'live'"), p.complaints()
        assert p.wait("document.querySelectorAll('.chart path.lineup')[0].getAttribute('d') !== ''")
        text = p.js("document.body.innerText")
        for word in ("demo", "ready", "tokens/s", "KV cache", "First token", "Whole request",
                     "engines ready", "not found", "worker 0"):
            assert word in text, word
        assert p.js("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        assert p.complaints() == []
        p.screenshot(tmp_path / "status.png", full=True)
        print("screenshot", tmp_path / "status.png")


@needs_chromium
def test_the_page_keeps_names_text_and_obeys_a_policy(url, pages):
    figures = httpx.get(url + "/status?format=json").json()
    figures["engines"][0]["name"] = HOSTILE
    for s in figures["series"]:
        s["engine"] = s["engine"] and HOSTILE
        s["model"] = s["model"] and HOSTILE + "\u202e"

    def moving():
        figures["time"] += 1
        figures["engines"][0]["generation_tokens"] += 50
        return figures

    front = Front(moving)
    try:
        with chromium.Chromium() as c:
            p = c.page(front.url)
            assert p.wait("/^(?!0$)\\d/.test((document.querySelector('.now span') || {}).textContent)")
            assert p.js("document.querySelector('.engine h2').textContent") == HOSTILE
            assert p.js("document.querySelectorAll('img').length") == 0
            assert p.js("document.title") == "nginx-llm status"
            assert p.js("document.querySelector('.now span').textContent") == "50"
            assert p.complaints() == []
        assert {a.split("?")[0] for a in front.asked} == {"/status"}, "it asks for nothing else"
    finally:
        front.shutdown()


@needs_chromium
def test_the_page_says_when_nobody_answers_and_goes_on(url, pages):
    good = httpx.get(url + "/status?format=json").json()
    broken = [False]

    def figures():
        good["time"] += 1
        return None if broken[0] else good

    front = Front(figures)
    try:
        with chromium.Chromium() as c:
            p = c.page(front.url)
            assert p.wait("document.getElementById('live').textContent === 'live'")
            broken[0] = True
            assert p.wait("!document.getElementById('lost').classList.contains('hide')")
            broken[0] = False
            assert p.wait("document.getElementById('lost').classList.contains('hide')")
            assert p.js("document.getElementById('live').textContent") == "live"
    finally:
        front.shutdown()
