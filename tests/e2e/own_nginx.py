"""own_nginx.py - an nginx with a configuration of the test's own, and one engine.

    n = OwnNginx("listen 127.0.0.1:PORT http2;", engine="mock")
    n.port, n.worker(), n.log("access.log"), n.stop()

engine is "mock" (deterministic tokens, see tools/llm_mock_engine.c) or "demo"
(the real engine with the bundled model).  PORT in `listen` is free port number
one, PORT2 the second.
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import httpx

from conftest import ROOT, free_port
from processes import children, runs

BIN = ROOT / os.environ.get("BUILD", "build") / os.environ.get("CONFIG", "release")
FORMAT = ("$status reason=$llm_finish_reason prompt=$llm_prompt_tokens "
          "completion=$llm_completion_tokens id=$llm_request_id proto=$server_protocol end")


def wait_for(what, seconds=10):
    end = time.time() + seconds
    while True:
        result = what()
        if result or time.time() > end:
            return result
        time.sleep(0.02)


class OwnNginx:
    def __init__(self, listen, engine="mock", location="", http="", main="", lines=None):
        subprocess.run(["make", "-s", "module", "mock-engine", "engine"], cwd=ROOT, check=True,
                       env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")})
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nginx-llm-own."))
        (self.dir / "logs").mkdir()
        self.dir.chmod(0o755)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-keyout", self.dir / "key.pem",
                        "-out", self.dir / "cert.pem"], check=True, capture_output=True)
        self.port, self.port2, self.plain = free_port(), free_port(), free_port()
        program = "nginx-llm-mock-engine" if engine == "mock" else "nginx-llm-engine"
        model = "served_model_name mock;" if engine == "mock" \
            else f"model {ROOT}/models/demo; served_model_name demo; device cpu;"
        if lines is not None:       # of the llm_engine block
            model = lines
        listen = listen.replace("PORT2", str(self.port2)).replace("PORT", str(self.port))
        user = "user root;" if os.geteuid() == 0 else ""
        temp = "".join(f"{x}_temp_path {self.dir}/{x};" for x in
                       ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.dir / "nginx.conf").write_text(f"""
load_module {BIN}/ngx_http_llm_module.so;
worker_processes 1; pid {self.dir}/nginx.pid; error_log {self.dir}/logs/error.log info; {user} {main}
events {{ worker_connections 4096; }}
http {{
    log_format own "{FORMAT}";
    access_log {self.dir}/logs/access.log own;
    {temp}
    ssl_certificate {self.dir}/cert.pem; ssl_certificate_key {self.dir}/key.pem;
    llm_engine chat {{ binary {BIN}/{program}; socket {self.dir}/chat.sock; {model} }}
    {http}
    server {{ {listen} location / {{ llm_pass chat; {location} }} }}
    server {{ listen 127.0.0.1:{self.plain}; access_log off; location / {{ llm_pass chat; }}
             location = /ready {{ llm_health ready; }} }}
}}
""")
        env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin")
        subprocess.run(["nginx", "-p", str(self.dir), "-c", "nginx.conf"], check=True, env=env)
        if not wait_for(lambda: self._get("/ready").status_code == 200, 60):
            log = self.log("error.log")
            self.stop()
            raise AssertionError(log)

    def _get(self, uri):
        try:
            return httpx.get(f"http://127.0.0.1:{self.plain}{uri}")
        except httpx.HTTPError:
            return httpx.Response(599)

    def master(self):
        return int((self.dir / "nginx.pid").read_text())

    def worker(self):
        return wait_for(lambda: next(iter(children(self.master())), None))

    def log(self, name):
        return (self.dir / "logs" / name).read_text(errors="replace")

    def logged(self, request_id, seconds=5):
        """The fields of a request's line in the access log, {} if none comes."""
        def find():
            m = re.search(rf"^(\d+) (.* id={request_id} .*) end$", self.log("access.log"), re.M)
            return m and dict([p.split("=", 1) for p in m[2].split()], status=m[1])
        return wait_for(find, seconds) or {}

    def metric(self, name):
        total = 0.0
        for line in self._get("/metrics").text.splitlines():
            if re.match(rf"{re.escape(name)}[ {{]", line):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def idle(self, seconds=15):
        return wait_for(lambda: self.metric("vllm:num_requests_running") == 0
                        and self.metric("vllm:num_requests_waiting") == 0
                        and self.metric("vllm:kv_cache_usage_perc") == 0, seconds)

    def rss_kb(self):
        status = pathlib.Path(f"/proc/{self.worker()}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def cpu_seconds(self):
        stat = pathlib.Path(f"/proc/{self.worker()}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        """Graceful, so that what still hangs is noticed; returns grave log lines."""
        master = self.master()
        os.kill(master, signal.SIGQUIT)
        ended = wait_for(lambda: not runs(master), 20)
        if not ended:
            os.kill(master, signal.SIGTERM)
            wait_for(lambda: not runs(master), 20)
        grave = [l for l in self.log("error.log").splitlines()
                 if any(f"[{x}]" in l for x in ("alert", "crit", "emerg"))]
        shutil.rmtree(self.dir, ignore_errors=True)
        return grave if ended else grave + ["nginx did not end"]
