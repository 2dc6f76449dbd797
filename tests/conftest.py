"""Test-wide settings: one thread per process, because the networks are small and test machines are shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
