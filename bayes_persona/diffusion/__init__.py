"""Text-to-image models and what personalises them: loading, attaching, photos, latents, and one file a method.

The modules are the namespaces: `pipelines` (load a model, fingerprint it, encode prompts once), `attach` (swap parts by
name, bit-exactly in and out), `photos` (a folder of pictures as one array), `latents` (pixels to latents and back),
`inversion` (the noise that a picture came from), `degrade` (what old and small photos look like) and `train` (gradient
training as a kernel). The room knows Stable-Diffusion-class models in general, and no world that they were trained on.
"""

from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    from transformers.utils import logging

    # Without torchvision transformers says, once and unasked, that it reads pictures with Pillow; so do we.
    _verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    from diffusers import StableDiffusionPipeline as _  # noqa: F401 - it says so now

    logging.set_verbosity(_verbosity)
