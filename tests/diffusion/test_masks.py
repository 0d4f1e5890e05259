"""Masks from files and from a segmenter of transformers' own classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    ViTImageProcessor,
)

from bayes_persona import DataError, RunError
from bayes_persona.diffusion import masks
from bayes_persona.world import base_model
from tests.diffusion.tiny import SIZES

SIDE = 32


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """CLIPSeg with random weights and the tiny model's words."""
    words: CLIPTokenizer = base_model.tokenizer(SIZES)
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8}
    config = CLIPSegConfig(
        text_config={**text, **ids, "num_attention_heads": 2, "max_position_embeddings": 40},
        vision_config={**vision, "num_attention_heads": 2},
        projection_dim=8,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CLIPSegForImageSegmentation(config)
    folder = tmp_path_factory.mktemp("clipseg")
    net.save_pretrained(folder)
    CLIPSegProcessor(ViTImageProcessor(size={"height": SIDE, "width": SIDE}), words).save_pretrained(folder)
    return folder


def test_a_segmenter_gives_a_share_for_every_pixel(segmenter):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    find = masks.ClipSeg(segmenter)
    found = find(pixels, "robot")
    assert found.shape == (2, 64, 64)
    assert (found >= 0).all()
    assert (found <= 1).all()
    np.testing.assert_allclose(find(pixels[1:], "robot")[0], found[1], atol=1e-6)
    assert not np.allclose(find(pixels, "cat"), found)


def test_a_damaged_segmenter_is_said(segmenter, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="cannot be loaded"):
        masks.ClipSeg(tmp_path)


def test_masks_lie_under_their_photos_names(tmp_path):
    (tmp_path / "masks").mkdir()
    for name, level in (("b", 0), ("a", 255)):
        Image.new("L", (20, 30), level).save(tmp_path / "masks" / f"{name}.png")
    found = masks.read(tmp_path, ["a.jpg", "b.jpeg"], 16)
    assert found.shape == (2, 16, 16)
    assert found.mean(axis=(1, 2)).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match=r"no mask for c\.jpg"):
        masks.read(tmp_path, ["a.jpg", "c.jpg"], 16)
    (tmp_path / "masks" / "c.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a picture"):
        masks.read(tmp_path, ["c.jpg"], 16)
