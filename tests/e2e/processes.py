"""processes.py - finds the processes of a server started by tools/run.sh."""
import os
import pathlib


def _stat(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        ppid = int(text.rsplit(")", 1)[1].split()[1])
        cmd = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return ppid, [c.decode(errors="replace") for c in cmd if c]
    except (OSError, IndexError, ValueError):
        return None, []


def all_pids():
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def runs(pid):
    """True unless the process is gone or a zombie its new parent has to reap."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return text.rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid):
    return [p for p in all_pids() if _stat(p)[0] == pid]


class Processes:
    """master, workers, supervisor and engine of the server behind run.sh."""

    def __init__(self, run_pid):
        self.master = next(p for p in children(run_pid)
                           if "nginx: master" in " ".join(_stat(p)[1]))
        args = " ".join(_stat(self.master)[1])
        self.prefix = args.split(" -p ")[1].split()[0].rstrip("/")

    def workers(self):
        return [p for p in children(self.master)
                if "nginx: worker" in " ".join(_stat(p)[1])]

    def _engines(self, supervise):
        found = []
        for p in all_pids():
            cmd = _stat(p)[1]
            if cmd and cmd[0].startswith(self.prefix + "/") \
                    and ("--supervise" in cmd) == supervise:
                found.append(p)
        return found

    def engine(self):
        found = self._engines(False)
        return found[0] if found else None

    def supervisors(self):
        return self._engines(True)

    def describe(self, pid):
        return _stat(pid)

    def num_fds(self, pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    def error_log(self):
        return pathlib.Path(self.prefix, "logs", "error.log").read_text(errors="replace")

    def grave_lines(self):
        return [l for l in self.error_log().splitlines()
                if any(f"[{x}]" in l for x in ("alert", "crit", "emerg"))]
