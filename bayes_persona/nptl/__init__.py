"""NPTL: nonparametric transfer learning, the posterior bootstrap over pretrained nets (Lee et al., ICLR 2024).

The prior is put on the *law of the data*, not on parameters: a Dirichlet process centred on what a linear probe of the
pretrained net believes. A posterior draw is a weighting of real and believed labels, and the net that fits it best.

    from bayes_persona import average, nptl, predictions
    from bayes_persona.nptl.learner_torch import TorchLearner

    learner = TorchLearner(net, head="head")
    data = nptl.classification(x, y, classes=10)
    base = nptl.linear_probe(learner, data)
    posterior = nptl.sample(nptl.Config(particles=10), learner, base, data, seed=0)
    probs = average(predictions(learner, posterior, x_new))
"""

from bayes_persona.nptl.base_measure import BaseMeasure, linear_probe
from bayes_persona.nptl.data import classification
from bayes_persona.nptl.references import deep_ensemble, distillation_ensemble, fine_tune
from bayes_persona.nptl.sample import Config, fuse, sample

__all__ = [
    "BaseMeasure",
    "Config",
    "classification",
    "deep_ensemble",
    "distillation_ensemble",
    "fine_tune",
    "fuse",
    "linear_probe",
    "sample",
]
