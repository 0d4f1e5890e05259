"""Textual inversion: the new words and nothing else, each row in its own member's."""

import copy

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError, MismatchError
from bayes_persona.diffusion.adapter import Batch, Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.train import AdamW, Config
from bayes_persona.diffusion.words import NewWords
from bayes_persona.loop import run
from bayes_persona.seeds import generator
from bayes_persona.world import base_model
from tests.diffusion.tiny import LATENT, SIZES, noise, snapshot, tiny, untouched

METHOD = TextualInversion(Subject("robot"), vectors=2)
PHRASE = "<me> the robot"
FIRST = len(base_model.tokenizer(SIZES))
"""The id of the first new word."""


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before, words = snapshot(pipe.text_encoder), pipe.tokenizer
    known, config = len(words), dict(pipe.config)
    yield
    assert untouched(pipe.text_encoder, before)
    assert pipe.tokenizer is words
    assert len(words) == known
    assert dict(pipe.config) == config


def learned(members=3, vectors=2):
    return {"embedding": generator(0, "learned").normal(size=(members, vectors, 16)).astype(np.float32)}


def tokens(pipe, prompts):
    """What a trainer does: words of several vectors are written out, then tokenized."""
    spelled = [pipe.maybe_convert_prompt(prompt, pipe.tokenizer) for prompt in prompts]
    return torch.tensor(pipe.tokenizer(spelled, padding="max_length", max_length=40).input_ids)


@torch.no_grad()
def encode(pipe, prompts):
    return pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]


def attach(pipe, params, method=METHOD):
    with method.attached(pipe, params, torch.tensor([0])):
        pass


@torch.no_grad()
def embed_by_hand(pipe, vectors):
    """The encoding of the phrase by a text encoder whose table was really grown."""
    grown = tiny()
    table = grown.text_encoder.get_input_embeddings()
    rows = torch.cat([table.weight, torch.tensor(vectors)])
    grown.text_encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows))
    the, robot = pipe.tokenizer("the robot", add_special_tokens=False).input_ids
    first, last = pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id
    ids = [first, *range(len(table.weight), len(rows)), the, robot]
    return grown.text_encoder(torch.tensor([ids + [last] * (40 - len(ids))]))[0]


def test_it_keeps_the_promises_of_an_adapter(pipe):
    assert check(METHOD, pipe) is None
    assert check(TextualInversion(Subject("robot", "sks"), vectors=1, spread=0.5), pipe) is None


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_token_stands_for_all_its_vectors(pipe, vectors):
    method = TextualInversion(Subject("robot"), vectors=vectors)
    with method.attached(pipe, learned(2, vectors), torch.tensor([1])):
        ids = tokens(pipe, [f"a picture of {PHRASE}, happy"])[0].tolist()
        assert [token for token in ids if token >= FIRST] == list(range(FIRST, FIRST + vectors))
        have = encode(pipe, [PHRASE])
    torch.testing.assert_close(have, embed_by_hand(pipe, learned(2, vectors)["embedding"][1]))


def test_each_row_reads_its_own_member(pipe):
    rows = [2, 0, 1]
    with METHOD.attached(pipe, learned(), torch.tensor(rows)):
        together = encode(pipe, [PHRASE] * 3)
        guided = pipe.encode_prompt([PHRASE] * 3, "cpu", 1, True, negative_prompt=[PHRASE] * 3)
    for row, member in enumerate(rows):
        with METHOD.attached(pipe, learned(), torch.tensor([member])):
            alone = encode(pipe, [PHRASE])[0]
        torch.testing.assert_close(together[row], alone)
        torch.testing.assert_close(guided[1][row], alone)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_prompts_without_the_token_are_the_base_models_bit_for_bit(pipe):
    prompts = ["a red robot in the snow", "", "me"]
    base, base_tokens = encode(pipe, prompts), tokens(pipe, prompts)
    with METHOD.attached(pipe, learned(), torch.tensor([0, 1, 2])):
        assert torch.equal(tokens(pipe, prompts), base_tokens)
        assert torch.equal(encode(pipe, prompts), base)


def test_one_prompt_without_the_token_can_be_encoded_beside_any_rows(pipe):
    base = encode(pipe, ["a robot"])
    with METHOD.attached(pipe, learned(), torch.tensor([0, 1, 2])):
        assert torch.equal(encode(pipe, ["a robot"]), base)
        with pytest.raises(MismatchError, match="3 rows are attached, which does not divide a batch of 1"):
            encode(pipe, [PHRASE])


def test_a_token_of_letters_is_not_found_inside_other_words(pipe):
    prompts = ["some happy robot"]
    base = tokens(pipe, prompts)
    method = TextualInversion(Subject("robot", "Rob"), vectors=1)
    with method.attached(pipe, learned(1, 1), torch.tensor([0])):
        assert torch.equal(tokens(pipe, prompts), base)
        assert FIRST in tokens(pipe, ["Rob the robot"])  # as it is written, capitals and all
        assert FIRST not in tokens(pipe, ["rob the robot"])


def test_gate_zero_is_the_superclass_and_half_lies_between(pipe):
    ids = pipe.tokenizer("robot", add_special_tokens=False).input_ids
    superclass = pipe.text_encoder.get_input_embeddings().weight[ids].mean(dim=0).detach().numpy()
    vectors = learned()["embedding"][1]
    for gate, want in ((0.0, np.tile(superclass, (2, 1))), (0.5, (vectors + superclass) / 2), (1.0, vectors)):
        with METHOD.attached(pipe, learned(), torch.tensor([1]), {"embedding": gate}):
            have = encode(pipe, [PHRASE])
        torch.testing.assert_close(have, embed_by_hand(pipe, want.astype(np.float32)))


def test_gate_zero_of_one_vector_reads_as_the_superclass_itself(pipe):
    method = TextualInversion(Subject("robot", template="{token}"), vectors=1)
    with method.attached(pipe, learned(1, 1), torch.tensor([0]), {"embedding": 0.0}):
        have = encode(pipe, ["<me> in the snow"])
    torch.testing.assert_close(have, encode(pipe, ["robot in the snow"]))


def test_training_starts_at_the_superclass_and_spread_sets_members_apart(pipe):
    start = METHOD.init(pipe, 3, seed=0)["embedding"]
    ids = pipe.tokenizer("robot", add_special_tokens=False).input_ids
    table = pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(start, np.tile(table[ids].mean(axis=0), (3, 2, 1)))
    apart = TextualInversion(Subject("robot"), spread=0.5).init(pipe, 200, seed=0)["embedding"] - start[0]
    assert apart.std() == pytest.approx(0.5 * table.std(ddof=1), rel=0.05)


def test_diffusers_reads_what_is_exported(pipe, tmp_path):
    member = {"embedding": learned()["embedding"][1]}
    METHOD.export(tmp_path / "me.safetensors", member)
    theirs = tiny()
    theirs.tokenizer = copy.deepcopy(theirs.tokenizer)  # diffusers adds the words to the one that it finds
    theirs.load_textual_inversion(tmp_path / "me.safetensors", token="<me>")
    prompts = [f"a picture of {PHRASE}", "a robot"]
    with METHOD.attached(pipe, learned(), torch.tensor([1, 1])):
        torch.testing.assert_close(encode(pipe, prompts), encode(theirs, prompts))


def batch_of(pipe, step, member):
    """Two rows a member, the same whoever else is in the batch."""
    fields = []
    with METHOD.attached(pipe, learned(), torch.tensor([0])):
        words = tokens(pipe, [PHRASE])[0]
    for row, who in enumerate(member):
        seed = 100 * step + 10 * who + row % 2
        fields.append((noise(*LATENT, seed=seed), noise(*LATENT, seed=seed + 5), torch.tensor(97 * seed % 1000)))
    latents, noises, time = (torch.stack(field) for field in zip(*fields, strict=True))
    n = len(member)
    return Batch(latents, noises, time, words.repeat(n, 1), torch.tensor(member), 0.5 + torch.arange(n) % 2)


def trained(pipe, params, members, steps=4):
    own = {who: place for place, who in enumerate(members)}

    def loss(params, batch, generator):
        return (METHOD.loss(pipe, params, batch) * batch.weight).sum()

    def batches(step):
        batch = batch_of(pipe, step, [who for who in members for _ in range(2)])
        return batch._replace(member=torch.tensor([own[who] for who in batch.member.tolist()]))

    config = Config(rate=0.02, warmup=2, clip=0.05, members=True)
    return run(AdamW(params, loss, config), batches, steps=steps, seed=0)[0].params["embedding"]


def test_members_trained_together_are_those_trained_alone(pipe):
    params = learned()
    together = trained(pipe, params, [0, 1, 2])
    assert (together - torch.tensor(params["embedding"])).abs().min(dim=-1).values.max() > 1e-3
    for k in (0, 2):
        alone = trained(pipe, {"embedding": params["embedding"][k : k + 1]}, [k])
        torch.testing.assert_close(together[k], alone[0], rtol=1e-3, atol=1e-4)


def test_a_batch_that_speaks_of_no_subject_has_a_gradient_of_zero(pipe):
    batch = batch_of(pipe, 0, [0, 1])._replace(tokens=tokens(pipe, ["a robot", "a cat"]))
    leaf = torch.tensor(learned()["embedding"], requires_grad=True)
    loss = METHOD.loss(pipe, {"embedding": leaf}, batch).sum()
    assert not torch.autograd.grad(loss, leaf)[0].any()


@pytest.mark.parametrize("token", ["robot", "Robot", "v", "<|endoftext|>"])
def test_a_token_that_is_a_word_already_is_refused(pipe, token):
    method = TextualInversion(Subject("robot", token), vectors=1)
    with pytest.raises(ConfigError, match="a word of this model already"):
        attach(pipe, learned(1, 1), method)


@pytest.mark.parametrize("shape", [(3, 1, 16), (3, 2, 8), (3, 16)])
def test_params_of_another_model_are_refused(pipe, shape):
    with pytest.raises(MismatchError, match=r"expected \(2, 16\) a member"):
        attach(pipe, {"embedding": np.zeros(shape, np.float32)})


def test_two_at_once_are_refused(pipe):
    with METHOD.attached(pipe, learned(), torch.tensor([0])):
        with pytest.raises(MismatchError, match="its words are now a NewWords; detach"):
            attach(pipe, learned(), TextualInversion(Subject("robot", "<you>")))
        assert encode(pipe, [PHRASE]).shape == (1, 40, 16)


def test_new_words_begin_after_the_tokenizers_last_even_if_the_table_is_longer():
    words = NewWords(torch.nn.Embedding(9, 2), torch.full((1, 2, 2), 7.0), torch.tensor([0]), first=5)
    assert words(torch.tensor([[4, 5, 6]]))[0, :, 0].tolist()[1:] == [7, 7]


def test_no_vector_is_refused():
    with pytest.raises(ConfigError, match="vectors: expected at least 1, got 0"):
        TextualInversion(Subject("robot"), vectors=0)
