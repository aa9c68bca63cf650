"""chromium.py - a headless Chromium on a pipe, for tests of the status page.

    with Chromium() as c:
        page = c.page("http://127.0.0.1:8000/llm", width=1200, height=900, dark=True)
        page.js("document.title")
        page.screenshot("x.png")

The DevTools protocol over two pipes needs no library and no port.
"""
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time


def find():
    """The path of a Chromium, or None."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    return None


class Chromium:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="llm-chromium-")
        read_by_it, self.to = os.pipe()
        self.out, written_by_it = os.pipe()
        args = [find(), "--headless=new", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
                "--disable-extensions", "--disable-background-networking",
                f"--user-data-dir={self.dir}", "--remote-debugging-pipe", "about:blank"]

        def pipes():                # in the child: 3 and 4 may be anything yet
            ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read_by_it, written_by_it)]
            for fd, end in zip((3, 4), ends):
                os.dup2(end, fd)
                os.close(end)

        self.proc = subprocess.Popen(args, preexec_fn=pipes, close_fds=False,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_by_it)
        os.close(written_by_it)
        self.serial, self.rest, self.events = 0, b"", []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.terminate()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        os.close(self.to)
        os.close(self.out)
        shutil.rmtree(self.dir, ignore_errors=True)

    def call(self, method, session=None, seconds=30, **params):
        self.serial += 1
        message = {"id": self.serial, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.time() + seconds
        while time.time() < end:
            answer = self._read(end)
            if answer and answer.get("id") == self.serial:
                assert "error" not in answer, answer
                return answer["result"]
        raise TimeoutError(method)

    def _read(self, end):
        while b"\0" not in self.rest:
            if not select.select([self.out], [], [], max(0, end - time.time()))[0]:
                return None
            data = os.read(self.out, 1 << 20)
            if not data:
                raise EOFError("chromium has ended")
            self.rest += data
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def page(self, url, width=1200, height=900, dark=False, scale=1):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target,
                            flatten=True)["sessionId"]
        p = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            p.call(domain + ".enable")
        p.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
               deviceScaleFactor=scale, mobile=width < 600)
        p.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        p.call("Page.navigate", url=url)
        return p


class Page:
    def __init__(self, chromium, session):
        self.chromium, self.session = chromium, session

    def call(self, method, **params):
        return self.chromium.call(method, self.session, **params)

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in r, r
        return r["result"].get("value")

    def wait(self, expression, seconds=20):
        end = time.time() + seconds
        while time.time() < end:
            # an exception is a "not yet": the page may still be loading
            if self.js(f"(() => {{ try {{ return {expression} }} catch (e) {{ return false }} }})()"):
                return True
            time.sleep(0.1)
        return False

    def complaints(self):
        """What the console and the content security policy had to say."""
        found = []
        for e in self.chromium.events:
            if e.get("sessionId") != self.session:
                continue
            if e["method"] == "Log.entryAdded":
                found.append(e["params"]["entry"]["text"])
            elif e["method"] == "Runtime.exceptionThrown":
                found.append(str(e["params"]["exceptionDetails"]))
        return found

    def screenshot(self, path, full=False):
        clip = {}
        if full:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"captureBeyondViewport": True, "clip": {
                "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", **clip)["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))
