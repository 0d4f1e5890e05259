"""What a text encoder learns before there are pictures: to say at every word what the caption has told so far.

Stable Diffusion's text encoder comes from CLIP, trained on pictures that no noise was in. Here captions say exactly
what is in a scene, so the encoder learns to read that off instead, names and the identities behind them included; the
U-Net then finds it laid out in every token.
"""

from bayes_persona.errors import needs_extra
from bayes_persona.seeds import child
from bayes_persona.world import base_model, facts
from bayes_persona.world.captioned import PLACES, questions

with needs_extra("diffusion"):
    import torch
    from torch import nn
    from torch.nn import functional


class Reader(nn.Module):
    """A text encoder, and a linear answer to each question at each token.

    >>> sizes = base_model.Config(text_width=16, text_layers=1)
    >>> tokens = torch.tensor(base_model.tokenizer(sizes)("a red cat", padding="max_length").input_ids)[None]
    >>> answers, z = Reader(sizes, seed=0)(tokens)
    >>> answers["background"].shape, z.shape
    (torch.Size([1, 40, 8]), torch.Size([1, 40, 2, 12]))
    """

    def __init__(self, config: base_model.Config, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child(seed, "reader"))
            self.text_encoder = base_model.text_encoder(config, seed)
            self.answers = nn.ModuleList([nn.Linear(config.text_width, len(among)) for among in questions().values()])
            self.z = nn.Linear(config.text_width, PLACES * len(facts.factors()))

    def forward(self, tokens: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Read tokens `(n, words)`: logits `(n, words, answers)` by question, and factors `(n, words, 2, 12)`."""
        states = self.text_encoder(tokens).last_hidden_state
        answers = {name: head(states) for name, head in zip(questions(), self.answers, strict=True)}
        return answers, self.z(states).unflatten(-1, (PLACES, -1))


def loss(answers: dict[str, torch.Tensor], z: torch.Tensor, labels: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Add cross entropies of answers and squared errors of factors, at every token alike.

    Args:
        answers: Logits by question.
        z: Factors, in units of their spread.
        labels: The right answers `(n, questions)`; -1 where there is none.
        truth: The true factors `(n, 2, 12)`; NaN where nobody is called by name.

    >>> silent = torch.full((1, len(questions())), -1), torch.full((1, 2, 12), torch.nan)
    >>> answers, z = Reader(base_model.Config(), seed=0)(torch.zeros(1, 40, dtype=torch.long))
    >>> loss(answers, z, *silent).item()
    0.0
    """
    known = ~truth.isnan()[:, None]
    total = ((z - truth.nan_to_num()[:, None]).square() * known).sum() / (known.sum() * z.shape[1]).clamp(min=1)
    for column, guess in enumerate(answers.values()):
        right = labels[:, column, None].expand(guess.shape[:2])
        wrong = functional.cross_entropy(guess.flatten(0, 1), right.flatten(), ignore_index=-1, reduction="sum")
        total = total + wrong / (right >= 0).sum().clamp(min=1)
    return total
