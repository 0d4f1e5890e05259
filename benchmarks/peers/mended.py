"""torchvision where its build is for CUDA and torch's for CPU: its operators are declared, so that it can be imported.

Such a build loads no operator, and says so while it is imported. transformers and peers import it; nobody here calls
one.
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

OPERATOR = re.compile(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"')
"""Where it says what an operator of its own gives."""
_kept = []
"""Libraries of operators, which live as long as they do."""


def torchvision() -> None:
    """Import it, if it is there; declare its operators by name if that fails for want of them."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        texts = [path.read_text() for path in Path(found.origin).parent.rglob("*.py")]
        _kept.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in {name for text in texts for name in OPERATOR.findall(text)}:
            _kept[-1].define(f"{name}() -> ()")
