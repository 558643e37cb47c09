"""How much a stage gains, learnt from the stages of the search: Bayesian linear regression."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The prior, in units of the distance between the base model and the best score: a stage gains 0.15 at the
# base model and nothing at the best score, and 0.2 of what the stage before it gained; an error of 0.15.
# Strengths are in numbers of stages.
PRIOR_WEIGHTS = (0.15, -0.15, 0.2)
PRIOR_STRENGTHS = (1.0, 1.0, 1.0)
PRIOR_ERROR = 0.15
PRIOR_ERROR_STRENGTH = 3.0


@dataclass(frozen=True)
class Curve:
    """How stages gain, as drawn from the posterior, in units of the spread of scores.

    Attributes:
        weights: (3,), of intercept, score and momentum.
        deviation: standard deviation of a single stage's gain.
    """

    weights: Sequence[float]
    deviation: float

    def best_ahead(self, score: float, momentum: float, stages: int, rng: random.Random) -> float:
        """Return the best score on a path of so many more stages, each with a random deviation of its own."""
        intercept, slope, carry = self.weights
        best = -math.inf
        for _ in range(stages):
            momentum = intercept + slope * score + carry * momentum + rng.gauss(0.0, self.deviation)
            score += momentum
            best = max(best, score)
        return best


class GainModel:
    """gain = intercept + slope * score + carry * momentum + error.

    `score` is how far the parent lies above the base model, `momentum` what the parent's own stage gained:
    curves that flatten have a negative slope, late starters one below -1, and a path that moves goes on
    moving where the carry is positive. Only sums are stored, so a stage is added and a curve drawn in
    constant time. The prior is in units of the spread of scores at that time.
    """

    def __init__(self) -> None:
        self.products = np.zeros((3, 3))  # sum of x x^T, where x are the features of a stage
        self.targets = np.zeros(3)  # sum of x * gain
        self.squares = 0.0  # sum of gain^2
        self.count = 0

    def observe(self, score: float, momentum: float, gain: float) -> None:
        """Add a stage."""
        features = np.array((1.0, score, momentum))
        self.products += np.outer(features, features)
        self.targets += features * gain
        self.squares += gain * gain
        self.count += 1

    def draw(self, spread: float, rng: random.Random, exploration: float) -> Curve:
        """Return a curve drawn from the posterior (Thompson sampling), its deviations times `exploration`."""
        precision, weights, deviation = self.posterior(spread)
        noise = [rng.gauss(0.0, exploration * deviation) for _ in weights]
        # With precision = L L^T, L^-T noise has the covariance deviation^2 * precision^-1.
        drawn = weights + np.linalg.solve(np.linalg.cholesky(precision).T, noise)
        return Curve(drawn.tolist(), exploration * deviation)

    def posterior(self, spread: float) -> tuple[Array, Array, float]:
        """Return precision (3, 3) and mean (3,) of the weights, and the deviation of one stage's error.

        The precision is in units of that error.
        """
        units = np.array((1.0, 1 / spread, 1 / spread))  # as if all scores had been in units of the spread
        products, targets = self.products * np.outer(units, units), self.targets * units / spread
        precision = products + np.diag(PRIOR_STRENGTHS)
        weights = np.linalg.solve(precision, targets + np.multiply(PRIOR_STRENGTHS, PRIOR_WEIGHTS))
        errors = max(0.0, self.squares / spread**2 - weights @ (2 * targets - products @ weights))
        variance = (PRIOR_ERROR_STRENGTH * PRIOR_ERROR**2 + errors) / (PRIOR_ERROR_STRENGTH + self.count)
        return precision, weights, math.sqrt(variance)
