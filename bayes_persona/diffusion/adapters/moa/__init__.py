"""Mixture-of-Attention (Ostashev, Fang, Tulyakov, Cohen-Or, Aberman, SIGGRAPH Asia 2024, arXiv 2404.11565).

- `mixture`: what is trained once, on many people: experts, routers and what makes words of pictures.
- `method`: the adapter: one person, or several, is a vector each.
- `layer`, `tokens`, `now`: the mixture around one attention, the subjects' words, and what all layers share.
- `losses`: what the mixture is trained with.
- `features`: pictures with other subjects at the same seed, and real pictures with other subjects.
- `encoder`: from pictures to vectors.
"""
