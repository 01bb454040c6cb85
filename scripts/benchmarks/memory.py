"""The memory of running processes, as Linux counts it.

RssAnon is what a process owns; RssFile are pages of mapped files, which the kernel drops
when somebody else needs the room. VmHWM is the highest sum of both.
"""

import threading
import time

EVERY = 0.05
FIELDS = ("VmHWM", "RssAnon", "RssFile")


def now(pid):
    """The fields in bytes; empty once the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
            pairs = (line.split(":", 1) for line in lines)
            return {name: int(rest.split()[0]) << 10 for name, rest in pairs if name in FIELDS}
    except (FileNotFoundError, ProcessLookupError):
        return {}


class Watch:
    """Follows processes in the background; `peaks` are their highest figures, `series` the
    (time, RssAnon) of every look."""

    def __init__(self, **processes):
        self.peaks = {name: dict.fromkeys(FIELDS, 0) for name in processes}
        self.series = {name: [] for name in processes}
        self._processes = processes
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self):
        while not self._stopped.is_set():
            self.look()
            time.sleep(EVERY)

    def look(self):
        """Takes the figures of this moment into the peaks."""
        for name, process in self._processes.items():
            found = now(process.pid)
            for field, size in found.items():
                self.peaks[name][field] = max(self.peaks[name][field], size)
            if found:
                self.series[name].append((time.time(), found.get("RssAnon", 0)))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()
