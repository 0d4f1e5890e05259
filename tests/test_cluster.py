"""Ray's engine gives what the serial one does, whoever is lost on the way."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from test_parallel import draw, fails, items, same

from bayes_persona.errors import DataError, RunError
from bayes_persona.parallel import cluster
from bayes_persona.parallel import map as draws
from tests.engines import compared

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'bayes-persona[ray]'")
# Ray's own threads and sockets end when they like, and it reads the machine's limits as it likes.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=path)
    yield
    ray.shutdown()


class Slow:
    """Draw slowly, and say which process draws; the first to come to an item of `lost` kills its own process."""

    def __init__(self, folder, lost=()):
        self.folder, self.lost = folder, lost

    def __call__(self, seed):
        (self.folder / f"{seed}-{os.getpid()}").touch()
        time.sleep(0.05)
        if seed in self.lost and len(list(self.folder.glob(f"{seed}-*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(seed)


def always_lost(seed):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_cluster_of_two_workers_gives_the_serial_draws(tmp_path):
    assert same(draws(Slow(tmp_path), items, engine=cluster(2)), [draw(seed) for seed in items])
    assert len({path.name.partition("-")[2] for path in tmp_path.iterdir()}) == 2


def test_a_lost_workers_draw_is_done_again_and_all_draws_equal_the_serial_ones(tmp_path):
    lost = {items[1], items[4]}
    got = draws(Slow(tmp_path, lost), items, engine=cluster(2))
    assert same(got, [draw(seed) for seed in items])
    times = {seed: len(list(tmp_path.glob(f"{seed}-*"))) for seed in items}
    assert times == {seed: 1 + (seed in lost) for seed in items}


def test_a_worker_killed_from_outside_is_made_up_for(tmp_path):
    engine = cluster(2)(Slow(tmp_path), items)
    results = dict([next(engine)])
    victim = int(max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns).name.partition("-")[2])
    os.kill(victim, signal.SIGKILL)
    results |= dict(engine)
    assert same([results[position] for position in range(len(items))], [draw(seed) for seed in items])


def test_a_draw_that_takes_every_worker_with_it_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr("bayes_persona.parallel.RETRIES", 1)
    with pytest.raises(RunError, match="draw 0: its worker was lost 2 times"):
        draws(always_lost, items[:1], engine=cluster(2))


def test_an_error_in_a_worker_is_the_error_of_the_call():
    with pytest.raises(DataError, match="draw 2: step 3: the loss is not finite"):
        draws(fails, items, engine=cluster(2))
    with pytest.raises(ZeroDivisionError):
        draws(lambda item: {"x": np.ones(1) * (1 // item)}, [0], engine=cluster(2))


def test_results_can_be_written_on():
    (result,) = draws(lambda item: {"x": np.full(10**6, item)}, [3.0], engine=cluster(1))
    result["x"] += 1
    assert (result["x"] == 4).all()


def test_nptl_starts_a_cluster_and_draws_in_it_what_it_draws_alone():
    assert compared("cluster(2)") == "equal"
