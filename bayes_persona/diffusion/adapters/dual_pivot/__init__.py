"""Dual-Pivot Tuning: a restorer that knows one person (Chari et al., IEEE TIP 2025, arXiv 2312.17234)."""
