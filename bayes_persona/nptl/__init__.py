"""NPTL: nonparametric transfer learning, the posterior bootstrap over pretrained nets (Lee et al., ICLR 2024).

The prior is put on the *law of the data*, not on parameters: a Dirichlet process centred on what a linear probe of the
pretrained net believes. A posterior draw is a weighting of real and believed labels, and the net that fits it best.

    from bayes_persona import average, nptl, predictions
    from bayes_persona.nptl.learner_torch import TorchLearner

    learner = TorchLearner(net)
    data = nptl.classification(x, y, classes=10)
    base = nptl.linear_probe(learner, data)
    posterior = nptl.NPTL(particles=10).sample(learner, base, data, seed=0)
    probs = average(predictions(learner, posterior, x_new))

Another method is another word in the place of `NPTL`: `DeepEnsemble`, `MAP`, `MultiStart`, `DistillationEnsemble`.
For statistical models in NumPyro or Pyro there is `bayes_persona.nptl.npl`.
"""

from bayes_persona.nptl.base_measure import BaseMeasure, linear_probe, zero_shot
from bayes_persona.nptl.bootstrap import NPTL, choose_rho, fuse, model_nll
from bayes_persona.nptl.data import classification, multilabel, regression
from bayes_persona.nptl.method import Method
from bayes_persona.nptl.predictor import Predictor
from bayes_persona.nptl.references.ensembles import MAP, DeepEnsemble, DistillationEnsemble, MultiStart
from bayes_persona.nptl.soup import greedy_soup, uniform_soup
from bayes_persona.nptl.temperature import fit_temperature, tempered

__all__ = [
    "MAP",
    "NPTL",
    "BaseMeasure",
    "DeepEnsemble",
    "DistillationEnsemble",
    "Method",
    "MultiStart",
    "Predictor",
    "choose_rho",
    "classification",
    "fit_temperature",
    "fuse",
    "greedy_soup",
    "linear_probe",
    "model_nll",
    "multilabel",
    "regression",
    "tempered",
    "uniform_soup",
    "zero_shot",
]
