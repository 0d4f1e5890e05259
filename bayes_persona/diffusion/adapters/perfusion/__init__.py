"""Perfusion (Tewel, Gal, Chechik, Atzmon, SIGGRAPH 2023, arXiv 2305.01644): a subject is a gated rank-one edit.

- `method`: the adapter, which is trained and given a posterior as all others are.
- `layer`: the edit itself, exact for any number of concepts.
- `loaded`: load, gate and unload concepts on any Stable Diffusion pipeline.
- `tuner`: the same edit behind PEFT's `add_adapter`, `set_adapters` and `disable_adapters`.
"""
