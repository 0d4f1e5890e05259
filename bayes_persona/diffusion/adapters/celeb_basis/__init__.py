"""Celeb Basis: a person is a mixture of people whom the model knows (Yuan et al., NeurIPS 2023, arXiv 2306.00926)."""
