"""What a mixture is trained with: denoise subjects, leave the background to the prior, look at each subject for itself.

Of the published losses the weights are not all known; ours are arguments, and docs/moa.md says how they were chosen.
"""

from collections.abc import Mapping

from jaxtyping import Float

from bayes_persona.errors import MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from torch.nn import functional


def masked(error: Float[torch.Tensor, "n c h w"], mask: Float[torch.Tensor, "n h w"]) -> Float[torch.Tensor, " n"]:
    """Give the mean squared error over all pixels, of which only the mask's count: FastComposer's form.

    >>> masked(torch.full((1, 2, 1, 2), 2.0), torch.tensor([[[1.0, 0.0]]])).tolist()
    [2.0]
    """
    return (error.square().mean(dim=1) * mask).mean(dim=(1, 2))


def resized(map: Float[torch.Tensor, "n pixels"], size: tuple[int, int]) -> Float[torch.Tensor, "n h w"]:
    """Give a layer's map, whose pixels are a row, as a picture of another size.

    Raises:
        MismatchError: If the pixels are not those of a picture of these proportions.

    >>> resized(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), (4, 4))[0, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    height, width = size
    for factor in range(1, max(size) + 1):
        small = -(-height // factor), -(-width // factor)  # as strided convolutions round
        if small[0] * small[1] == map.shape[1]:
            return functional.interpolate(map.unflatten(1, small)[:, None], size, mode="bilinear")[:, 0]
    raise MismatchError(f"map: {map.shape[1]} pixels are no picture of {height}×{width} made smaller")


def prior_share(
    routed: Mapping[str, Float[torch.Tensor, "n _"]], size: tuple[int, int], skip: int = 0
) -> Float[torch.Tensor, "n h w"]:
    """Give R: the mean over layers of the prior's share in every pixel.

    Args:
        routed: The expert's share by layer, in any order of layers.
        size: Height and width of the latents.
        skip: Transformer blocks that are left out at either end of the U-Net; the paper leaves out two of sixteen.

    >>> prior_share({"attn1": torch.full((1, 4), 0.25)}, (2, 2)).tolist()
    [[[0.75, 0.75], [0.75, 0.75]]]
    """
    kept = inner(routed, skip)
    return torch.stack([1 - resized(routed[name], size) for name in kept]).mean(dim=0)


def router(
    routed: Mapping[str, Float[torch.Tensor, "n _"]], background: Float[torch.Tensor, "n h w"], skip: int = 0
) -> Float[torch.Tensor, " n"]:
    """Give how far the background is from being the prior's alone: ‖(1 − M) ⊙ (1 − R)‖², mean over pixels.

    >>> router({"attn1": torch.full((1, 4), 0.5)}, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])).tolist()
    [0.0625]
    """
    share = prior_share(routed, (background.shape[1], background.shape[2]), skip)
    return (background * (1 - share)).square().mean(dim=(1, 2))


def inside(
    routed: Mapping[str, Float[torch.Tensor, "n _"]], subject: Float[torch.Tensor, "n h w"], skip: int = 0
) -> Float[torch.Tensor, " n"]:
    """Give how far subjects are from being the experts' alone: ‖M ⊙ R‖², mean over pixels.

    The paper leaves subjects free. In a short training routers then give all to the prior, before experts are any good.

    >>> inside({"attn1": torch.full((1, 4), 0.5)}, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])).tolist()
    [0.0625]
    """
    share = prior_share(routed, (subject.shape[1], subject.shape[2]), skip)
    return (subject * share).square().mean(dim=(1, 2))


def located(
    attended: Mapping[str, Float[torch.Tensor, "n _ s"]], masks: Float[torch.Tensor, "n s h w"]
) -> Float[torch.Tensor, " n"]:
    """Give how much more each subject's word is looked at elsewhere than where the subject is: FastComposer's form.

    The mean over a picture's subjects, and over layers, of the mean over the rest of the picture less that over the
    subject; between -1 and 1. (What is printed for this method has the signs the other way, which would reward it.)

    >>> masks = torch.tensor([[[[1.0, 0.0]]]])
    >>> located({"attn2": torch.tensor([[[1.0], [0.0]]])}, masks).tolist()
    [-1.0]
    """
    here = masks / masks.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    there = (1 - masks) / (1 - masks).sum(dim=(2, 3), keepdim=True).clamp(min=1)
    present = masks.amax(dim=(2, 3))
    size, total = (masks.shape[2], masks.shape[3]), torch.zeros_like(present)
    for map in attended.values():
        looked = torch.stack([resized(map[..., s], size) for s in range(masks.shape[1])], dim=1)
        total = total + (looked * (there - here)).sum(dim=(2, 3))
    return (total * present).sum(dim=1) / (present.sum(dim=1).clamp(min=1) * max(len(attended), 1))


def inner(layers: Mapping[str, object], skip: int) -> list[str]:
    """Give the layers whose transformer blocks are not among the first or last `skip`, as they are ordered.

    >>> inner({"a.attn1": 0, "a.attn2": 0, "b.attn1": 0, "c.attn1": 0}, skip=1)
    ['b.attn1']
    """
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in layers))
    kept = set(blocks[skip : len(blocks) - skip])
    if not kept:
        raise MismatchError(f"skip: leaving out {skip} blocks at either end leaves none of {len(blocks)}")
    return [name for name in layers if name.rpartition(".")[0] in kept]
