"""The commands. Environment variables that must be set before PyTorch is imported are set here."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # Waiting threads of GNU OpenMP spin for milliseconds and block their core: two trainings on the same cores took
    # 5 to 8 times as long as one (benchmarks/shared_cores.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
