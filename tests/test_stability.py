"""What was promised to those who build on this: one version everywhere, and files that stay readable."""

import base64
import re
import tomllib
from pathlib import Path

import numpy as np

import bayes_persona
from bayes_persona.diffusion import adapter

ROOT = Path(__file__).parent.parent
FORMAT_1 = """
4AEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJiYXllc19wZXJzb25hIjoie1wiYWJvdXRcIjogXCJ7XFxcImJhc2VcXFwiOiBcXFwiYVxcXCIsIFxcXCJmb3JtYXRc
XFwiOiAxLCBcXFwibWVtYmVyc1xcXCI6IDIsIFxcXCJtZXRob2RcXFwiOiBcXFwidGV4dHVhbF9pbnZlcnNpb25cXFwiLCBcXFwic2V0dGluZ3NcXFwiOiB7XFxc
InNwcmVhZFxcXCI6IDAuMCwgXFxcInZlY3RvcnNcXFwiOiAxfSwgXFxcInN1YmplY3RcXFwiOiB7XFxcInN1cGVyY2xhc3NcXFwiOiBcXFwicm9ib3RcXFwiLCBc
XFwidGVtcGxhdGVcXFwiOiBcXFwie3Rva2VufSB0aGUge3N1cGVyY2xhc3N9XFxcIiwgXFxcInRva2VuXFxcIjogXFxcIjxtZT5cXFwifX1cIiwgXCJjaGVja3N1
bVwiOiBcIjFjMDcyYmIzOTJhY2U1MTBhY2M5MmEyYWY5Yzg4YmE0XCJ9In0sImVtYmVkZGluZyI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpbMiwyXSwiZGF0YV9v
ZmZzZXRzIjpbMCwxNl19fSAgICAgICAAAAAAAACAPwAAAEAAAEBA
"""
"""A personalization of two members as version 0.1 writes it: never to be made anew."""


def test_the_version_is_said_once():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert bayes_persona.__version__ == version
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version
    assert f"This is version {version.rpartition('.')[0]}:" in (ROOT / "docs" / "stability.md").read_text()


def test_a_file_of_the_first_format_is_read(tmp_path):
    (tmp_path / "me.safetensors").write_bytes(base64.b64decode(FORMAT_1))
    posterior, about = adapter.load(tmp_path / "me.safetensors", base="a")
    assert [member["embedding"].tolist() for member in posterior] == [[0.0, 1.0], [2.0, 3.0]]
    assert about["subject"]["token"] == "<me>"
    assert posterior[0]["embedding"].dtype == np.float32


def test_what_is_public_is_there():
    assert [name for name in bayes_persona.__all__ if not hasattr(bayes_persona, name)] == []
