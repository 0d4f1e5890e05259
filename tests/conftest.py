"""What every test shares: two threads, and pictures without a screen."""

import io
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before any framework reads it: more threads than cores are far slower
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")  # tests compile much and compute little


@pytest.fixture
def assert_drawn():
    """Check the law of all pictures: they go where they are told, and their layout works out."""
    from matplotlib.figure import Figure

    def check(draw):
        figure = Figure(layout="constrained")
        axes = figure.subplots(1, 2)
        assert draw(axes[1]) is axes[1]
        assert not axes[0].has_data()
        for whole in (figure, draw().figure):
            file = io.BytesIO()
            whole.savefig(file, format="png")  # warnings are errors
            assert file.getvalue()[:4] == b"\x89PNG"

    return check
