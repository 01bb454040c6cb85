"""What nvidia-smi says of a GPU while a program runs on it.

Its utilisation is the share of time in which at least one kernel ran, over a period of the
driver's between a sixth of a second and one: a queue that runs dry while the host waits
shows as less than all of it. Pauses of microseconds between kernels do not.
"""

import os
import shutil
import statistics
import subprocess
import threading

EVERY = 0.2
QUERY = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]


class Card:
    """Follows the card in the background; of its figures those count that are read while
    `counts()` is true. Without nvidia-smi there are none."""

    def __init__(self, counts):
        self._counts = counts
        self._command = [*QUERY, f"--id={os.environ.get('CUDA_VISIBLE_DEVICES', '0')}"]
        self._busy, self._mib = [], []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self):
        if shutil.which(QUERY[0]):
            self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        if self._thread.ident:
            self._thread.join()

    def _follow(self):
        while not self._stopped.wait(EVERY):
            if not self._counts():
                continue
            told = subprocess.run(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            cells = [cell.strip() for cell in told.stdout.split(",")]
            # What a card does not tell is [N/A].
            if len(cells) == 2 and all(cell.isdigit() for cell in cells):
                self._busy.append(int(cells[0]) / 100)
                self._mib.append(int(cells[1]))

    def figures(self):
        """The mean utilisation, and the most memory in use, of all programs together."""
        if not self._busy:
            return {}
        return {"busy": statistics.mean(self._busy), "gpu_mib": max(self._mib)}
