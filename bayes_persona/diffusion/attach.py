"""Swap parts of a network by name, and put the very same parts back: how every adapter meets its base model.

Nothing is patched and nothing is copied. While a part is attached the network calls it in the original's place; once
it is detached the network holds the same module objects in the same order as before, the same bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    from torch import nn

Part = nn.Module | Callable[[nn.Module], nn.Module]
"""A module to put in a place, or a function that is given the module there and returns what goes around it."""


class Attachment:
    """Parts that stay in a network until `detach`; `modules` names what now stands in each place.

    Raises:
        ConfigError: If a name is empty, or lies inside another part's.
        MismatchError: If the network has no such part, or a function does not give a module; nothing is swapped then.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> before = net[1]
    >>> handle = Attachment(net, {"1": nn.Tanh()})
    >>> net[1], handle.modules["1"]
    (Tanh(), Tanh())
    >>> handle.detach()
    >>> net[1] is before
    True
    """

    def __init__(self, root: nn.Module, parts: Mapping[str, Part]):
        for name in parts:
            if outer := next((other for other in parts if name.startswith(f"{other}.")), None):
                raise ConfigError(f"{name}: lies inside {outer}, which is swapped too; attach one, then the other")
        slots = {name: _slot(root, name) for name in parts}
        originals = {name: slots[name][0]._modules[slots[name][1]] for name in parts}
        # all are made before any is put in place: a function that fails leaves the network as it was
        self.modules = {name: _made(name, part, originals[name]) for name, part in parts.items()}
        self._back = [(*slots[name], originals[name], self.modules[name], name) for name in parts]
        for parent, leaf, _, new, _ in self._back:
            parent._modules[leaf] = new

    def detach(self) -> None:
        """Put back what was there; a second call does nothing.

        Raises:
            MismatchError: If a place now holds something else; nothing is put back then.
        """
        for parent, leaf, _, new, name in self._back:
            if parent._modules.get(leaf) is not new:
                raise MismatchError(f"{name}: something else was attached over it; detach the last one first")
        for parent, leaf, original, _, _ in self._back:
            parent._modules[leaf] = original
        self._back = []


@contextmanager
def attached(root: nn.Module, parts: Mapping[str, Part]) -> Iterator[dict[str, nn.Module]]:
    """Swap parts of `root` inside the block, and put the originals back however the block ends.

    Args:
        root: The network.
        parts: What goes where, by dotted name (`mid_block.attentions.0.transformer_blocks.0.attn2.to_k`): a module, or
            a function that is given the original and returns what goes around it.

    Returns:
        What stands in each place, by name.

    Raises:
        ConfigError: If a name is empty, or lies inside another part's.
        MismatchError: If the network has no such part; nothing is swapped then.
        MismatchError: At the end, if a later attachment to the same place is still there.

    >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> with attached(net, {"0": lambda original: nn.Sequential(original, nn.Tanh())}) as made:
    ...     net[0] is made["0"], net[0][0]
    (True, Identity())
    >>> net[0]
    Identity()
    """
    handle = Attachment(root, parts)
    try:
        yield handle.modules
    finally:
        handle.detach()


def _slot(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Give the module that holds `name`, and what it calls it."""
    if not name:
        raise ConfigError("parts: the empty name is the whole network; name a part of it")
    parent, (*path, leaf) = root, name.split(".")
    for step in path:
        parent = parent._modules.get(step)
        if parent is None:
            raise _unknown(root, name)
    if parent._modules.get(leaf) is None:
        raise _unknown(root, name)
    return parent, leaf


def _made(name: str, part: Part, original: nn.Module | None) -> nn.Module:
    made = part if isinstance(part, nn.Module) else part(original)  # pyright: ignore[reportArgumentType]
    if not isinstance(made, nn.Module):
        raise MismatchError(f"{name}: the function gave {type(made).__name__}; it must return a torch module")
    return made


def _unknown(root: nn.Module, name: str) -> MismatchError:
    names = [other for other, _ in root.named_modules(remove_duplicate=False) if other]
    near = get_close_matches(name, names, n=3, cutoff=0.3)
    advice = f"the nearest are {', '.join(near)}" if near else "it has no parts of a similar name"
    return MismatchError(f"{name}: not a part of this {type(root).__name__}; {advice}; was it made for another model?")
