"""What every engine has to keep: it draws what one draw after another gives, to the bit."""

import subprocess
import sys

SCRIPT = """
import numpy as np, torch
from bayes_persona import nptl
from bayes_persona.nptl.learner_torch import Config, TorchLearner
from bayes_persona.parallel import cluster, processes
torch.set_num_threads(1)  # sums depend on their number
rng = np.random.default_rng(0)
data = nptl.classification(rng.normal(size=(30, 4)).astype(np.float32), rng.integers(3, size=30), classes=3)
learner = TorchLearner(torch.nn.Linear(4, 3), Config(steps=6, batch=8, head_dropout=0.1))
base = nptl.linear_probe(learner, data)
serial, parallel = (
    nptl.NPTL(particles=3).sample(learner, base, data, seed=3, engine=engine) for engine in ("serial", ENGINE)
)
assert len(parallel) == 3
assert all(np.array_equal(a[name], b[name]) for a, b in zip(serial, parallel, strict=True) for name in a)
print("equal")
"""


def compared(engine):
    """Give what a process says of an engine, given as code: "equal", or its error.

    It is a process of its own, as functions that are type-checked cannot travel to workers.
    """
    script = SCRIPT.replace("ENGINE", engine)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return found.stdout.strip().rpartition("\n")[2] if found.returncode == 0 else found.stderr
