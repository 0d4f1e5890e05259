"""The personalization methods, a paper a file, all behind `bayes_persona.diffusion.adapter.Adapter`."""
