"""The main job on data that everyone has: digits for NPTL, a taxi for C-PSRL, and a page that explains them.

`bayes-persona demo` on the command line; `digits` and `pretrain` show how one's own net and data are brought in.
"""
