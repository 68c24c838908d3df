"""For all tests: one thread a process, since several run side by side and small matrices gain nothing from more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
