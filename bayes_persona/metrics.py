"""How good predicted probabilities are: right, sharp, calibrated, and aware of what they do not know.

Predictions come in after averaging (see `bma`), one row an example and one column a class; labels are class indices.
Scores that ask "how sure?" (`entropy`, the parts of `uncertainty`) are higher where the model knows less, so they go
into `auroc` and `aupr` as they are.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.named import require_finite


class Reliability(NamedTuple):
    """What a reliability diagram shows: per bin, how sure the model was and how often right. Empty bins are NaN.

    >>> reliability(np.array([[0.25, 0.75]]), np.array([0]), bins=1)
    Reliability(confidence=array([0.75]), accuracy=array([0.]), counts=array([1]))
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    counts: Integer[np.ndarray, " bins"]


class Uncertainty(NamedTuple):
    """Entropy in nats of what the particles predict, split by cause: total = aleatoric + epistemic.

    >>> total, aleatoric, epistemic = uncertainty(np.full((4, 1, 2), 0.5))
    >>> float(total[0] - aleatoric[0]), float(epistemic[0])
    (0.0, 0.0)
    """

    total: Float[np.ndarray, " n"]
    aleatoric: Float[np.ndarray, " n"]
    epistemic: Float[np.ndarray, " n"]


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval.

    >>> mean_interval(np.array([1.0, 1.0]))
    Interval(mean=1.0, low=1.0, high=1.0)
    """

    mean: float
    low: float
    high: float


def accuracy(probs: Float[np.ndarray, "n k"], y: Integer[np.ndarray, " n"]) -> float:
    """Give the share of examples whose most probable class is the label.

    >>> accuracy(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    0.5
    """
    return 1.0 - float(mistakes(probs, y).mean())


def mistakes(probs: Float[np.ndarray, "n k"], y: Integer[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Say of every example whether its most probable class is wrong.

    These are the positives of misclassification detection: `auroc(entropy(probs), mistakes(probs, y))`.

    >>> mistakes(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])).tolist()
    [False, True]
    """
    probs = _checked(probs, y)
    return probs.argmax(axis=1) != y


def nll(probs: Float[np.ndarray, "n k"], y: Integer[np.ndarray, " n"]) -> float:
    """Give the mean negative log-likelihood, in nats; a label thought impossible costs -log 1e-12.

    >>> round(nll(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0])), 4)  # 1.5 · log 2
    1.0397
    """
    probs = _checked(probs, y)
    return float(-np.log(probs[np.arange(len(y)), y].clip(1e-12)).mean())


def brier(probs: Float[np.ndarray, "n k"], y: Integer[np.ndarray, " n"]) -> float:
    """Give the squared distance from the one-hot label, summed over classes: 0 is best, 2 is worst.

    >>> brier(np.array([[0.5, 0.5]]), np.array([0]))
    0.5
    """
    probs = _checked(probs, y)
    return float(((probs - np.eye(probs.shape[1])[y]) ** 2).sum(axis=1).mean())


def reliability(
    probs: Float[np.ndarray, "n k"],
    y: Integer[np.ndarray, " n"],
    *,
    bins: int = 15,
    width: Literal["equal", "mass"] = "equal",
) -> Reliability:
    """Give how often the model is right among the examples where it was about equally sure.

    Args:
        probs: Predicted probabilities.
        y: Class indices.
        bins: Number of bins of confidence (the highest probability of a row).
        width: `"equal"` cuts [0, 1] into intervals (low, high] of one length; `"mass"` gives the bins as equal numbers
            of examples as ties allow: equal confidences share a bin, so the order of the data does not matter.

    Raises:
        ConfigError: If there is no bin, or `width` is neither word.

    >>> curve = reliability(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 1, 0]), bins=2, width="mass")
    >>> curve.counts.tolist(), curve.accuracy.tolist()
    ([1, 2], [1.0, 0.5])
    """
    if bins < 1 or width not in ("equal", "mass"):
        raise ConfigError(f'bins={bins}, width={width!r}: expected at least 1 bin, and "equal" or "mass"')
    probs = _checked(probs, y)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == y
    if width == "equal":
        place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    else:
        place = ((_midranks(confidence) - 0.5) * bins // len(y)).astype(int)
    counts = np.bincount(place, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(place, weights=values, minlength=bins)
        return np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Reliability(mean(confidence), mean(right), counts)


def ece(
    probs: Float[np.ndarray, "n k"],
    y: Integer[np.ndarray, " n"],
    *,
    bins: int = 15,
    width: Literal["equal", "mass"] = "equal",
) -> float:
    """Give the expected calibration error: the gap between sure and right, averaged over the bins of `reliability`.

    >>> round(ece(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])), 12)
    0.4
    """
    curve = reliability(probs, y, bins=bins, width=width)
    full = curve.counts > 0
    return float(np.average(np.abs(curve.accuracy - curve.confidence)[full], weights=curve.counts[full]))


def entropy(probs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Give the entropy of each row, in nats: how unsure the prediction is.

    >>> (entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) / np.log(2)).tolist()
    [1.0, 0.0]
    """
    return _entropy(_checked(probs))


def uncertainty(members: Float[np.ndarray, "particles n k"]) -> Uncertainty:
    """Split what is not known about each example into chance and lack of data.

    Total is the entropy of the average prediction, aleatoric the average entropy of the particles' predictions, and
    epistemic their difference: the mutual information of label and parameters, which is never negative.

    >>> split = uncertainty(np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]))
    >>> (split.aleatoric / np.log(2)).tolist(), (split.epistemic / np.log(2)).tolist()
    ([0.0, 1.0], [1.0, 0.0])
    """
    if members.ndim != 3:
        raise MismatchError(f"members: expected shape (particles, examples, classes), got {members.shape}")
    members = _checked(members.reshape(-1, members.shape[-1])).reshape(members.shape)
    aleatoric = _entropy(members).mean(axis=0)
    epistemic = (_entropy(members.mean(axis=0)) - aleatoric).clip(0)  # rounding alone would take it below
    return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Give the chance that a positive example scores higher than a negative one; a tie counts half.

    Out-of-distribution detection takes the scores of both data sets, with the outsiders as positives.

    Raises:
        DataError: If a score is NaN, or all examples are of one sort.

    >>> inside, outside = np.array([0.1, 0.3]), np.array([0.2, 0.3])
    >>> auroc(np.concatenate([inside, outside]), np.repeat([False, True], 2))
    0.625
    """
    _require_detection(scores, positive)
    hits = int(positive.sum())
    wins = _midranks(scores)[positive].sum() - hits * (hits + 1) / 2
    return float(wins / (hits * (len(scores) - hits)))


def aupr(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Give the area under the precision-recall curve, as steps (average precision): each hit's precision, averaged.

    Unlike `auroc` it depends on the share of positives, which is what a random score gets.

    Raises:
        DataError: If a score is NaN, or all examples are of one sort.

    >>> aupr(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    0.8333333333333333
    """
    _require_detection(scores, positive)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True).nonzero()[0]  # tied scores cross the threshold together
    hits = positive[order].cumsum()[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])


def mean_interval(values: Float[np.ndarray, " repeats"], level: float = 0.95) -> Interval:
    """Give the mean of a metric over repeated seeds, with Student's t interval; one value alone has none (NaN).

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If there is no value, or one is not finite.
        MissingExtraError: If scipy is not installed.

    >>> [round(end, 3) for end in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a number between 0 and 1, got {level}")
    if len(values) == 0:
        raise DataError("values: empty; a mean needs at least one")
    require_finite({"values": values}, "mean_interval")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    with needs_extra("torch"):  # or jax: both bring scipy
        from scipy.special import stdtrit
    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half = quantile * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return Interval(mean, float(mean - half), float(mean + half))


def _checked(probs: np.ndarray, y: np.ndarray | None = None) -> Float[np.ndarray, "n k"]:
    """Check probabilities, and labels if there are any, and give the probabilities in double precision."""
    if probs.ndim != 2:
        raise MismatchError(f"probs: expected shape (examples, classes), got {probs.shape}")
    if probs.size == 0:
        raise DataError(f"probs: empty, of shape {probs.shape}")
    require_finite({"probs": probs}, "metrics")
    probs = probs.astype(np.float64)
    sums = probs.sum(axis=1)
    bad = (probs < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)
    if bad.any():
        row = int(bad.argmax())
        have = f"row {row} has sum {sums[row]:.4g} and smallest entry {probs[row].min():.4g}"
        raise DataError(f"probs: {have}, expected probabilities; are these logits?")
    if y is not None:
        _require_labels(y, *probs.shape)
    return probs


def _require_labels(y: np.ndarray, n: int, k: int) -> None:
    if y.shape != (n,):
        raise MismatchError(f"y: expected {n} class indices, one a row of probs, got shape {y.shape}")
    if y.dtype.kind not in "iu":
        raise DataError(f"y: expected integer class indices, got {y.dtype}")
    outside = y[(y < 0) | (y >= k)]
    if outside.size:
        raise DataError(f"y: label {outside[0]} is outside the {k} classes (0 to {k - 1})")


def _require_detection(scores: np.ndarray, positive: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise MismatchError(f"scores, positive: expected two of one length, got {scores.shape} and {positive.shape}")
    if positive.dtype != bool:
        raise DataError(f"positive: expected bool, got {positive.dtype}")
    if np.isnan(scores).any():  # infinite ones are in order: they only rank first or last
        raise DataError(f"scores: {int(np.isnan(scores).sum())} of {len(scores)} numbers are NaN")
    if positive.all() or not positive.any():
        raise DataError(f"positive: {int(positive.sum())} of {len(positive)} are True; expected some of either sort")


def _entropy(probs: Float[np.ndarray, "*batch k"]) -> Float[np.ndarray, "*batch"]:
    # 0 - x and not -x, for a certain row to give 0 and not -0
    return 0.0 - (probs * np.log(np.where(probs > 0, probs, 1.0))).sum(axis=-1)


def _midranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Rank from 1 up; tied values share the middle of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]
