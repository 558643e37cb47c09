"""How much a stage gains, learnt from the stages of the search so far: Bayesian linear regression in three features."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

Matrix = list[list[float]]

# Before anything is known, in units of the distance between the base model and the best score: a stage gains 0.15 at the base model and
# nothing at the best score, and 0.2 of what the stage before it gained; an error of 0.15. Strengths are in numbers of stages.
PRIOR_WEIGHTS = (0.15, -0.15, 0.2)
PRIOR_STRENGTHS = (1.0, 1.0, 1.0)
PRIOR_ERROR = 0.15
PRIOR_ERROR_STRENGTH = 3.0


@dataclass(frozen=True)
class Curve:
    """One guess at how stages gain, in units of a spread of scores: drawn weights, and the standard deviation of a single stage's gain."""

    weights: Sequence[float]
    deviation: float

    def best_ahead(self, score: float, momentum: float, stages: int, rng: random.Random) -> float:
        """Return the best score on a path of so many more stages, each with a chance deviation of its own."""
        intercept, slope, carry = self.weights
        best = -math.inf
        for _ in range(stages):
            momentum = intercept + slope * score + carry * momentum + rng.gauss(0.0, self.deviation)
            score += momentum
            best = max(best, score)
        return best


class GainModel:
    """gain = intercept + slope * score + carry * momentum + error.

    `score` is how far the parent lies above the base model, `momentum` what the parent's own stage gained: curves that flatten have a
    negative slope, late starters one below -1, and a path that moves goes on moving where the carry is positive. Only sums are kept, so
    a stage is added and a curve drawn in constant time. The prior is in units of the spread of scores that is known by then.
    """

    def __init__(self) -> None:
        self.products: Matrix = [[0.0] * 3 for _ in range(3)]  # of features
        self.targets = [0.0] * 3  # features times gains
        self.squares = 0.0  # of gains
        self.count = 0

    def observe(self, score: float, momentum: float, gain: float) -> None:
        """Add a stage."""
        features = (1.0, score, momentum)
        for i, a in enumerate(features):
            self.targets[i] += a * gain
            for j, b in enumerate(features):
                self.products[i][j] += a * b
        self.squares += gain * gain
        self.count += 1

    def draw(self, spread: float, rng: random.Random, exploration: float) -> Curve:
        """Return a curve drawn from the posterior, whose standard deviations are multiplied by `exploration` (Thompson sampling)."""
        precision, weights, deviation = self.posterior(spread)
        root = cholesky(precision)
        noise = [rng.gauss(0.0, exploration * deviation) for _ in weights]
        return Curve(
            [w + e for w, e in zip(weights, back_substituted(root, noise), strict=True)],
            exploration * deviation,
        )

    def posterior(self, spread: float) -> tuple[Matrix, list[float], float]:
        """Return the precision of the weights (in units of one stage's error), their mean, and the standard deviation of that error."""
        products, targets = self._scaled(spread)
        precision = [
            [value + (PRIOR_STRENGTHS[i] if i == j else 0.0) for j, value in enumerate(row)]
            for i, row in enumerate(products)
        ]
        pulled = [
            target + strength * prior
            for target, strength, prior in zip(targets, PRIOR_STRENGTHS, PRIOR_WEIGHTS, strict=True)
        ]
        root = cholesky(precision)
        weights = back_substituted(root, forward_substituted(root, pulled))
        fitted = sum(
            w * (2 * t - sum(p * v for p, v in zip(row, weights, strict=True)))
            for w, t, row in zip(weights, targets, products, strict=True)
        )
        errors = max(0.0, self.squares / spread**2 - fitted)
        return (
            precision,
            weights,
            math.sqrt((PRIOR_ERROR_STRENGTH * PRIOR_ERROR**2 + errors) / (PRIOR_ERROR_STRENGTH + self.count)),
        )

    def _scaled(self, spread: float) -> tuple[Matrix, list[float]]:
        """Return the sums as if every score had been given in units of the spread."""
        units = (1.0, 1 / spread, 1 / spread)
        products = [
            [value * a * b for value, b in zip(row, units, strict=True)]
            for row, a in zip(self.products, units, strict=True)
        ]
        return products, [target * unit / spread for target, unit in zip(self.targets, units, strict=True)]


def cholesky(matrix: Matrix) -> Matrix:
    """Return the lower triangular L with L L^T = `matrix`, which is symmetric and positive definite."""
    size = len(matrix)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    return lower


def forward_substituted(lower: Matrix, right: Sequence[float]) -> list[float]:
    """Return x with L x = `right`."""
    found: list[float] = []
    for row, value in zip(lower, right, strict=True):
        found.append((value - sum(a * x for a, x in zip(row, found, strict=False))) / row[len(found)])
    return found


def back_substituted(lower: Matrix, right: Sequence[float]) -> list[float]:
    """Return x with L^T x = `right`."""
    upper = [list(column)[::-1] for column in zip(*lower, strict=True)][::-1]
    return forward_substituted(upper, list(right)[::-1])[::-1]
