import numpy as np

from bayes_persona.diffusion import degrade
from bayes_persona.world import oracles, splits
from bayes_persona.world.degraded import pair


def test_an_example_is_always_damaged_in_the_same_way_and_others_in_others():
    one, other = (splits.sample(splits.Config(), i, seed=0) for i in range(2))
    for config in (degrade.Config(), degrade.SecondOrder()):
        assert np.array_equal(pair(one, config).photo, pair(one, config).photo)
        assert np.array_equal(pair(one, config).clean, one.render().pixels)
    off = [np.abs(pair(each).photo.astype(int) - pair(each).clean).mean() for each in (one, other)]
    assert min(off) > 1
    assert off[0] != off[1]


def test_damage_hides_who_it_is():
    examples = [splits.sample(splits.Config(named=0.0, pairs=0.0), i, seed=3) for i in range(24)]
    pairs = [pair(example, degrade.SecondOrder()) for example in examples]

    def error(pictures):
        read = oracles.load().read(np.stack(pictures)).z
        return np.abs(read - np.array([example.scene.subjects[0].identity.z for example in examples])).mean()

    assert error([each.photo for each in pairs]) > 1.5 * error([each.clean for each in pairs])
