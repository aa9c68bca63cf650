"""conftest.py - starts `make run`'s server once for the end-to-end tests.

The server is the real thing: nginx, module, engine, demo model, started by
tools/run.sh as a user would.  LLM_BASE_URL uses a running server instead.
"""
import os
import pathlib
import signal
import socket
import subprocess
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A running server: base_url, and its process tree under `proc`."""

    def __init__(self, model=None, engine_lines=None):
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        env = dict(os.environ, PORT=str(self.port))
        if model:
            env["MODEL"] = str(model)
        if engine_lines:
            env["ENGINE_LINES"] = engine_lines
        self.log = open(ROOT / "build" / "e2e-server.log", "w+")
        self.proc = subprocess.Popen(
            [str(ROOT / "tools" / "run.sh")], cwd=ROOT, env=env,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        end = time.time() + START_SECONDS_MAX
        while time.time() < end:
            assert self.proc.poll() is None, self.tail()
            try:
                if httpx.get(self.base_url + "/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server did not become ready\n" + self.tail())

    def tail(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()[-4000:]

    def stop(self):
        """Ctrl-C, as in the README; returns the exit code."""
        if self.proc.poll() is None:
            os.killpg(self.proc.pid, signal.SIGINT)
            self.proc.wait(30)
        self.log.close()
        return self.proc.returncode

    def metric(self, name):
        """Sum of a metric's samples over its labels."""
        total = 0.0
        for line in httpx.get(self.base_url + "/metrics").text.splitlines():
            if line.startswith(name + "{") or line.startswith(name + " "):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def idle(self, seconds=10):
        """Waits until no sequence runs or waits and all KV blocks are free."""
        end = time.time() + seconds
        while time.time() < end:
            if (self.metric("vllm:num_requests_running") == 0
                    and self.metric("vllm:num_requests_waiting") == 0):
                return self.metric("vllm:kv_cache_usage_perc") == 0
            time.sleep(0.05)
        return False


@pytest.fixture(scope="session")
def server():
    if os.environ.get("LLM_BASE_URL"):
        class Running(Server):
            def __init__(self):     # somebody else started it
                self.base_url = os.environ["LLM_BASE_URL"]
        yield Running()
        return
    (ROOT / "build").mkdir(exist_ok=True)
    s = Server()
    yield s
    s.stop()


@pytest.fixture(scope="session")
def url(server):
    return server.base_url


@pytest.fixture(scope="session")
def client(url):
    import openai
    return openai.OpenAI(base_url=url + "/v1", api_key="unused",
                         max_retries=0, timeout=60)
