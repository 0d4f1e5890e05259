"""NPL: the posterior bootstrap for statistical models in NumPyro or Pyro (Fong, Lyddon & Holmes 2019, algorithm 2).

A posterior draw is a law of the data, drawn from a Dirichlet process, and the parameters that maximise the model's
expected log density under it. The model is a way of looking at the data, never assumed to be true: where it is wrong,
the draws have the spread that its estimates really have (the sandwich covariance), and those of Bayes's theorem do not.

    from bayes_persona.nptl.npl import NPL
    from bayes_persona.nptl.npl.numpyro_model import NumPyroModel

    posterior = NPL(particles=1000).sample(NumPyroModel(model), {"x": x, "y": y}, seed=0)

`pyro_model.PyroModel` takes the place of `NumPyroModel` for a model in Pyro. Neither framework is imported here.
"""

from bayes_persona.nptl.npl.sample import NPL, resampled

__all__ = ["NPL", "resampled"]
