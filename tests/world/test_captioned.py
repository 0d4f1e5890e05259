"""What the base model is trained on: pictures, what their captions say, and where faces are."""

import numpy as np
import torch
from torch.func import functional_call

from bayes_persona import loop
from bayes_persona.diffusion import train
from bayes_persona.world import base_model, facts, reader, splits
from bayes_persona.world.captioned import Captioned, questions

TINY = base_model.Config(text_width=32, text_layers=1)


def some(n, **mixture):
    examples = [splits.sample(splits.Config(**mixture), i, seed=3) for i in range(n)]
    return examples, Captioned.of(examples)


def test_faces_count_more_than_clothes_and_these_more_than_the_background():
    examples, drawn = some(6, pairs=0.0)
    np.testing.assert_allclose(drawn.weights.astype(float).mean(axis=(1, 2)), 1, atol=2e-3)
    for example, weights in zip(examples, drawn.weights, strict=True):
        (mask,) = example.render().masks
        assert weights[0, 0] == weights.min()  # a corner of the sky
        assert weights[15, 8] > weights.min()  # the chest
        assert mask[60, 32]
        assert weights[4:12, 4:12].max() == weights.max() > 2 * weights[15, 8]


def test_labels_are_what_captions_say_and_nothing_more():
    examples, drawn = some(40)
    for example, labels in zip(examples, drawn.labels, strict=True):
        told = {name: among[k] for k, (name, among) in zip(labels, questions().items(), strict=True) if k >= 0}
        assert told["count"] == str(len(example.scene.subjects))
        for place, who in enumerate(example.scene.subjects):
            assert told[f"superclass {place}"] == who.identity.superclass
            assert told[f"accessory {place}"] == who.accessory
            assert told.get(f"pose {place}", who.pose) == who.pose
        dressed = [name for name in told if name.startswith("clothing")]
        assert len(dressed) == example.caption.count(" wearing ")
        assert any(name.endswith(" 1") for name in told) == (len(example.scene.subjects) == 2)


def test_only_names_say_who_it_is():
    examples, drawn = some(40)
    for example, z in zip(examples, drawn.z, strict=True):
        for place in range(2):
            name = (*example.names, None)[place]
            if name is None:
                assert np.isnan(z[place]).all()
            else:
                want = splits.named()[name].z
                np.testing.assert_allclose(0.5 + z[place] / 12**0.5, want, atol=1e-6)


def test_a_text_encoder_learns_to_read():
    _, drawn = some(16, named=1.0, pairs=0.5)
    net = reader.Reader(TINY, seed=0)
    tokens, labels, z = (torch.from_numpy(part) for part in (drawn.tokens, drawn.labels, drawn.z))

    def loss(params, batch, noise):
        return reader.loss(*functional_call(net, params, (tokens.long(),)), labels.long(), z)

    state, log = loop.run(train.AdamW(dict(net.named_parameters()), loss, train.Config(rate=1e-2)), steps=150, seed=0)
    net.load_state_dict(state.params)
    answers, read = net(tokens.long())
    for column, name in enumerate(questions()):
        asked = labels[:, column] >= 0
        right = answers[name][:, -1].argmax(-1)[asked] == labels[asked, column]
        assert right.float().mean() > 0.9, name
    known = ~z.isnan()
    assert (read[:, -1] - z)[known].square().mean() < 0.1
    assert log[-1]["loss"] < log[0]["loss"]


def test_factors_are_asked_only_of_those_who_are_named():
    """Where nobody is named, no gradient reaches the factors."""
    _, drawn = some(4, named=0.0)
    net = reader.Reader(TINY, seed=0)
    answers, z = net(torch.from_numpy(drawn.tokens).long())
    reader.loss(answers, z, torch.from_numpy(drawn.labels).long(), torch.from_numpy(drawn.z)).backward()
    assert net.z.weight.grad.abs().max() == 0
    assert net.answers[0].weight.grad.abs().max() > 0


def test_there_is_a_question_for_everything_that_a_caption_can_say():
    assert len(questions()) == 2 + 2 * 5
    assert {name.split()[0] for name in questions()} == {"count", "superclass", *facts.ATTRIBUTES}
