"""What is measured on models of full size, on small ones of the same classes: trained, saved, loaded, drawn again."""

import json

import pytest
import torch
from transformers import CLIPTokenizer

from benchmarks import full_size
from benchmarks.stable_diffusion import ALL, whole_way
from tests.diffusion.tiny import tiny, tiny_xl


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for make in (tiny, tiny_xl):
        make().save_pretrained(place / make.__name__)
    return place


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("model", "name"), [("tiny", name) for name in ALL] + [("tiny_xl", "dual_pivot")])
def test_what_is_loaded_draws_what_was_drawn_before(folders, model, name):
    found = whole_way(folders / model, name, 16, checkpointing=True)
    assert (found["equal"], found["learned"]) == (1.0, 1.0)
    assert found["kilobytes"] > 0 < found["seconds"]


def test_the_full_sizes_are_the_published_ones():
    """Without a number of them: what would be there."""
    for model in ("sd15", "sdxl"):
        with torch.device("meta"):
            made = {part: make() for part, make in full_size._networks(model)}
        counts = {part: sum(value.numel() for value in net.parameters()) for part, net in made.items()}
        assert counts == full_size.PARAMETERS[model]


def test_the_folder_is_as_published_ones_are(tmp_path):
    full_size._small_things("sdxl", tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"][1] == "EulerDiscreteScheduler"
    words = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer_2")
    assert (len(words), words.pad_token, words.model_max_length) == (full_size.WORDS, "!", 77)
    assert words.tokenize("a happy robot") == ["a</w>", "happy</w>", "robot</w>"]
