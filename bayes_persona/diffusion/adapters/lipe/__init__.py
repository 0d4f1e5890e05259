"""LIPE (Liu et al., arXiv 2406.17236): a photo is edited in pose and expression, and stays who and where it is.

- `method`: stage 1, the adapter: attention layers learn the person from photos whose captions say all but who it is.
- `others`: pictures of anyone, made by the base model, that are learned beside the photos so that no pose is forgotten.
- `captions`: what a caption for editing says, and prompts for the pictures of anyone.
- `attention`: where a word of the prompt is in the picture, from cross-attention.
- `nima`: stage 2: a photo is walked back to noise and forth again under another prompt, and blended where it was.
- `edit_friendly`: another way back to noise, with a noise for every step.
- `masactrl`: what to compare with: editing by self-attention to the photo, without a person that was learned.
"""
