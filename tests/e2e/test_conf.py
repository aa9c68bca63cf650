"""test_conf.py - the files of conf/ run as they are and show what they say.

Only the @NAMES@ are filled in.  The mock engine serves where an answer has to
be refused or slow, the real one and the demo model otherwise.
"""
import hashlib
import hmac
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import threading
import time

import httpx
import pytest

from conftest import ROOT, free_port

BIN = ROOT / os.environ.get("BUILD", "build") / os.environ.get("CONFIG", "release")
NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
FILES = sorted(p.name for p in (ROOT / "conf").glob("*.conf"))

ALICE = {"Authorization": "Bearer sk-alice-0123456789abcdef"}
BOB = {"x-api-key": "sk-bob-fedcba9876543210"}
CHAT = {"model": "demo", "max_tokens": 4,
        "messages": [{"role": "user", "content": "hello"}]}


def mock(**what):
    return {**CHAT, "mock": {"tokens": 3, **what}}


class Gateway:
    """nginx with one file of conf/: a directory, a port, a process."""

    def __init__(self, name, directory, mock_engine):
        self.dir, self.port, self.tls_port = directory, free_port(), free_port()
        self.url, self.proc = f"http://127.0.0.1:{self.port}", None
        (self.dir / "logs").mkdir()
        engine = "nginx-llm-mock-engine" if mock_engine else "nginx-llm-engine"
        values = {
            "PREFIX": self.dir, "PORT": self.port, "TLS_PORT": self.tls_port,
            "MODEL": ROOT / "models" / "demo", "ENGINE": BIN / engine,
            "MODULE": BIN / "ngx_http_llm_module.so", "CONF": ROOT / "conf",
            "USER": "user root;" if os.getuid() == 0 else "",
            # of bench.conf
            "SOCKET": self.dir / "bench.sock", "UPSTREAM": free_port(),
            "CPU_MASK": "1", "ANSWER": "{}",
        }
        text = (ROOT / "conf" / name).read_text()
        unknown = set(re.findall(r"@([A-Z_]+)@", text)) - set(values) - {"NAMES"}
        assert not unknown, f"{name}: test_conf.py has no value for {unknown}"
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        (self.dir / "nginx.conf").write_text(text)
        if "tls.crt" in text:
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                 "-days", "2", "-subj", "/CN=localhost", "-addext",
                 "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
                 self.dir / "tls.key", "-out", self.dir / "tls.crt"],
                check=True, capture_output=True)

    def command(self, *more):
        return [NGINX, "-e", str(self.dir / "logs" / "error.log"),
                "-p", f"{self.dir}/", "-c", "nginx.conf", *more]

    def start(self):
        self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL)
        assert self.wait(self.ready, 60), self.log("error.log")
        return self

    def ready(self):
        assert self.proc.poll() is None, self.log("error.log")
        try:
            return httpx.get(self.url + "/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def wait(self, what, seconds=10):
        end = time.time() + seconds
        while time.time() < end:
            if what():
                return True
            time.sleep(0.05)
        return False

    def stop(self):
        if self.proc is not None:
            self.proc.terminate()
            self.proc.wait(30)

    def log(self, name):
        path = pathlib.Path(self.dir, "logs", name)
        return path.read_text(errors="replace") if path.exists() else ""

    def get(self, path="/v1/models", **more):
        return httpx.get(self.url + path, timeout=30, **more)

    def chat(self, body=None, **more):
        return httpx.post(self.url + "/v1/chat/completions", json=body or CHAT,
                          timeout=30, **more)


@pytest.fixture()
def run(tmp_path):
    """run(name) starts a file of conf/; all are stopped at the end."""
    started = []

    def start(name, mock_engine=False):
        # sun_path has 108 bytes, so no long directory of pytest's
        directory = pathlib.Path(subprocess.check_output(
            ["mktemp", "-d", "/tmp/llm-conf.XXXXXX"], text=True).strip())
        started.append(Gateway(name, directory, mock_engine))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.stop()
        grave = [line for line in gateway.log("error.log").splitlines()
                 if "[alert]" in line or "[emerg]" in line or "[crit]" in line]
        shutil.rmtree(gateway.dir)
        assert grave == []


def refused(response, status, code):
    """An error in OpenAI's shape and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


@pytest.mark.parametrize("name", FILES)
def test_nginx_accepts(name, tmp_path):
    gateway = Gateway(name, tmp_path, False)
    done = subprocess.run(gateway.command("-t"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.parametrize("name", FILES)
def test_readme_lists(name):
    assert f"`{name}`" in (ROOT / "conf" / "README.md").read_text()
    first = (ROOT / "conf" / name).read_text().splitlines()[0]
    assert re.match(rf"# {re.escape(name)} - \S", first)


def test_nginx_accepts_what_the_readme_shows(tmp_path):
    text = (ROOT / "README.md").read_text().split("In your own nginx.conf")[1]
    lines = text.split("\n\n")[1].splitlines()
    assert all(line.startswith("    ") for line in lines)
    conf = "\n".join(lines)
    for shown, here in [
            ("modules/ngx_http_llm_module.so", BIN / "ngx_http_llm_module.so"),
            ("/usr/lib/nginx-llm/nginx-llm-engine", BIN / "nginx-llm-engine"),
            ("include keys.map", f"include {ROOT}/conf/keys.map"),
            ("listen 8080", f"listen 127.0.0.1:{free_port()}")]:
        assert shown in conf
        conf = conf.replace(shown, str(here))
    (tmp_path / "logs").mkdir()
    (tmp_path / "nginx.conf").write_text(
        f"{conf}\nevents {{}}\npid {tmp_path}/nginx.pid;\n")
    done = subprocess.run([NGINX, "-t", "-e", "stderr", "-p", f"{tmp_path}/", "-c", "nginx.conf"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_keys_with_the_openai_sdk(run):
    import openai
    gateway = run("keys.conf")
    key = ALICE["Authorization"].split()[1]
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0)
    answer = client.chat.completions.create(**CHAT)
    assert answer.usage.completion_tokens > 0
    with pytest.raises(openai.AuthenticationError) as e:
        client.with_options(api_key="sk-eve").models.list()
    assert e.value.code == "invalid_api_key"
    assert e.value.response.headers["www-authenticate"] == "Bearer"
    assert gateway.wait(lambda: gateway.log("usage.log").count("\n") >= 2)
    lines = [json.loads(x) for x in gateway.log("usage.log").splitlines()]
    used = next(x for x in lines if x["owner"] == "alice")
    assert used["completion_tokens"] == str(answer.usage.completion_tokens)
    assert used["key"] == hmac.new(b"change me", key.encode(),
                                   hashlib.sha256).hexdigest()[:16]
    assert key not in gateway.log("usage.log") + gateway.log("error.log")


def test_keys_limits(run):
    gateway = run("keys.conf", mock_engine=True)
    refused(gateway.get(), 401, "invalid_api_key")
    assert gateway.get(headers=BOB).status_code == 200
    # rate: a burst of 10, bob's, and alice is not touched by it
    answers = [gateway.get(headers=BOB) for _ in range(30)]
    limited = [a for a in answers if a.status_code == 429]
    assert limited and len(limited) < 30
    refused(limited[0], 429, "rate_limit_exceeded")
    assert limited[0].headers["retry-after"] == "1"
    assert gateway.get(headers=ALICE).status_code == 200
    # concurrency: four answers under way, also by the owner's other key
    results = []
    other = {"api-key": "sk-alice-another-machine"}
    threads = [threading.Thread(target=lambda h=h: results.append(
        gateway.chat(mock(first_ms=1500), headers=h))) for h in [ALICE, other] * 3]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    codes = sorted(r.status_code for r in results)
    assert codes == [200] * 4 + [429] * 2
    # before a location is known
    refused(gateway.get("/", headers={"x": "y" * 40000}), 400, "headers_too_large")
    refused(gateway.get("/" + "x" * 40000), 414, "uri_too_long")
    refused(gateway.chat({"x": "y" * (9 << 20)}, headers=ALICE), 413, "request_too_large")


def test_auth_request(run):
    gateway = run("auth_request.conf", mock_engine=True)
    answer = gateway.chat(mock(), headers=ALICE)
    assert answer.status_code == 200 and answer.headers["x-owner"] == "alice"
    refused(gateway.chat(mock(), headers=BOB), 403, "forbidden")
    answer = gateway.chat(mock(), headers={"Authorization": "Bearer sk-eve"})
    refused(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    refused(gateway.get("/key", headers=ALICE), 404, "not_found")


def test_access(run):
    gateway = run("access.conf", mock_engine=True)
    inside = {"X-Forwarded-For": "10.1.2.3"}
    outside = {"X-Forwarded-For": "192.0.2.7"}
    assert gateway.chat(mock(), headers=inside).status_code == 200
    answer = gateway.chat(mock(), headers=outside)
    refused(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == 'Basic realm="models"'
    assert gateway.chat(mock(), headers=outside,
                        auth=("alice", "wonderland")).status_code == 200
    refused(gateway.chat(mock(), headers=outside, auth=("alice", "x")), 401,
            "invalid_api_key")
    assert gateway.get(headers=outside).status_code == 200
    refused(httpx.post(gateway.url + "/v1/models"), 403, "forbidden")
    assert gateway.get("/metrics").status_code == 200
    refused(gateway.get("/metrics", headers=inside), 403, "forbidden")


def test_fallback(run):
    gateway = run("fallback.conf", mock_engine=True)
    assert "x-served-by" not in gateway.chat(mock()).headers
    answer = gateway.chat(mock(refuse=True))
    assert answer.headers["x-served-by"] == "remote"
    assert answer.json()["choices"][0]["message"]["content"] == "from afar"
    # the engine dies before it answers, and in the middle
    assert gateway.chat(mock(crash="before")).json()["model"] == "remote"
    assert gateway.wait(gateway.ready)
    text = gateway.chat({**mock(tokens=6, delay_ms=50, crash="mid"), "stream": True}).text
    assert "tok0" in text and "from afar" not in text and "engine_lost" in text


def test_tls(run):
    gateway = run("tls.conf", mock_engine=True)
    url = f"https://localhost:{gateway.tls_port}"
    trust = ssl.create_default_context(cafile=gateway.dir / "tls.crt")
    with httpx.Client(verify=trust, base_url=url) as client:
        assert client.post("/v1/chat/completions", json=mock()).status_code == 200
        refused(client.get("/v1/none"), 404, "not_found")
    answer = gateway.chat(mock())
    assert answer.status_code == 308
    assert answer.headers["location"].endswith(f":{gateway.tls_port}/v1/chat/completions")
    # plain HTTP to the port of HTTPS is 497 to nginx and 400 to the client
    refused(httpx.get(f"http://127.0.0.1:{gateway.tls_port}/"), 400, "https_required")
    curl = ["curl", "-sN", "-m", "20", "--cacert", gateway.dir / "tls.crt"]
    if "HTTP2" not in subprocess.check_output(["curl", "--version"], text=True):
        pytest.skip("curl without HTTP/2")
    out = subprocess.check_output(
        [*curl, "--http2", "-w", "%{http_version}", "-H", "Content-Type: application/json",
         "-d", json.dumps({**mock(), "stream": True}), url + "/v1/chat/completions"], text=True)
    assert "tok2" in out and out.endswith("[DONE]\n\n2")
    out = subprocess.check_output([*curl, "--http2", "-w", "%{http_version} %{http_code}",
                                   url + "/v1/none"], text=True)
    assert out.endswith("2 404") and '"code":"not_found"' in out


def test_cors(run):
    gateway = run("cors.conf", mock_engine=True)
    for origin, allowed in [("http://localhost:3000", True),
                            ("https://app.example", True),
                            ("https://app.example.evil.test", False)]:
        headers = {"Origin": origin}
        answers = [
            httpx.options(gateway.url + "/v1/chat/completions", headers={
                **headers, "Access-Control-Request-Method": "POST"}),
            gateway.chat(mock(), headers=headers),
            gateway.chat(mock(refuse=True), headers=headers),
            gateway.get("/v1/none", headers=headers)]
        assert [a.status_code for a in answers] == [204, 200, 503, 404]
        for a in answers:
            assert a.headers.get("access-control-allow-origin") == (
                origin if allowed else None)
            assert a.headers["vary"] == "Origin"


def test_canary(run):
    gateway = run("canary.conf", mock_engine=True)

    def engine(key):
        answer = gateway.get(headers={"api-key": key})
        assert answer.status_code == 200
        return answer.headers["x-engine"]

    assert engine("sk-beta") == "next" and engine("sk-safe") == "demo"
    chosen = {f"sk-{i}": engine(f"sk-{i}") for i in range(100)}
    assert 5 <= list(chosen.values()).count("next") <= 40
    assert all(engine(k) == v for k, v in list(chosen.items())[:10])
    body = mock()
    assert gateway.chat(body).status_code == 200
    assert gateway.wait(lambda: "POST /v1/chat/completions" in gateway.log("shadow.log"))


def test_demo(run):
    gateway = run("demo.conf")
    assert gateway.chat().json()["usage"]["completion_tokens"] > 0
