"""The commands. Here stands what has to be so before any of them imports PyTorch."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # GNU OpenMP lets a thread that waits spin for milliseconds, which keeps its core from others: two trainings on the
    # same cores took 5 to 8 times as long as one (benchmarks/shared_cores.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
