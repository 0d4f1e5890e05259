"""The guide's training, as short as it can be: what it keeps, what it leaves alone, and that it goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError
from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.world.train_restorer import Config, Pool, main

QUICK = Config(pictures=4, damages=2, steps=2, cooldown=1, batch=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("restorer"), torch.get_num_threads()
    yield main(replace(QUICK, folder=folder))
    torch.set_num_threads(threads)


def test_the_guide_learns_and_is_small(trained):
    pipe = pipelines.load()
    guide = guides.load(pipe, trained)
    start = Guide.of(pipe).state_dict()
    moved = [name for name, value in guide.state_dict().items() if not torch.equal(value, start[name].half().float())]
    assert "controlnet_cond_embedding.weight" in moved or "controlnet_mid_block.weight" in moved
    assert "empty" not in moved
    assert (trained / guides.NAME).stat().st_size < 6e6


def test_a_finished_run_gives_the_same_file_again(trained):
    before = (trained / guides.NAME).read_bytes()
    main(replace(QUICK, folder=trained.parent))
    assert (trained / guides.NAME).read_bytes() == before


def test_pictures_and_their_damage_depend_on_their_number_alone():
    pipe = pipelines.load()
    whole, last = (Pool.drawn(QUICK, pipe, some) for some in (range(3), range(2, 3)))
    for name in ("clean", "damaged", "captions", "plain"):
        np.testing.assert_allclose(getattr(whole, name)[2:], getattr(last, name), atol=2e-3)
    assert not np.array_equal(whole.damaged[:, 0], whole.damaged[:, 1])


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"second_order": 1.5}, {"captioned": -0.1}, {"rate": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)


def test_the_shipped_guide_is_the_embedded_models():
    guide = guides.load(pipelines.load())
    assert bool(guide.controlnet_cond_embedding.weight.any())
