"""What every test shares: two threads, and pictures without a screen."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before any framework reads it: more threads than cores are far slower
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")  # tests compile much and compute little
