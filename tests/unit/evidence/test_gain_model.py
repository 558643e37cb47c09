"""How stages gain: the closed form against numpy, and what is drawn from it."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import numpy as np
import pytest

from llmzero.evidence.gain_model import (
    PRIOR_ERROR,
    PRIOR_ERROR_STRENGTH,
    PRIOR_STRENGTHS,
    PRIOR_WEIGHTS,
    Curve,
    GainModel,
)


def observed(stages: int, spread: float, seed: int = 0) -> tuple[GainModel, list[tuple[float, float, float]]]:
    rng, model = random.Random(seed), GainModel()
    rows = [
        (spread * rng.random(), spread * rng.gauss(0, 0.1), spread * rng.gauss(0.05, 0.1))
        for _ in range(stages)
    ]
    for row in rows:
        model.observe(*row)
    return model, rows


@pytest.mark.parametrize("stages", [0, 1, 5, 200])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e4])
def test_the_posterior_is_that_of_ridge_regression_around_the_prior(stages: int, spread: float) -> None:
    model, rows = observed(stages, spread)
    precision, weights, deviation = model.posterior(spread)
    x = np.array([(1.0, score / spread, momentum / spread) for score, momentum, _ in rows]).reshape(-1, 3)
    y = np.array([gain / spread for *_, gain in rows])
    wanted = x.T @ x + np.diag(PRIOR_STRENGTHS)
    mean = np.linalg.solve(wanted, x.T @ y + np.diag(PRIOR_STRENGTHS) @ PRIOR_WEIGHTS)
    squared = float(((y - x @ mean) ** 2).sum())
    assert np.allclose(precision, wanted)
    assert np.allclose(weights, mean)
    assert deviation == pytest.approx(
        ((PRIOR_ERROR_STRENGTH * PRIOR_ERROR**2 + squared) / (PRIOR_ERROR_STRENGTH + stages)) ** 0.5, rel=1e-6
    )


def test_curves_are_drawn_with_the_posteriors_covariance() -> None:
    model, _ = observed(20, 1.0)
    precision, weights, deviation = model.posterior(1.0)
    drawn = np.array([model.draw(1.0, random.Random(i), 1.0).weights for i in range(20_000)])
    assert np.allclose(drawn.mean(axis=0), weights, atol=0.01)
    assert np.allclose(np.cov(drawn.T), deviation**2 * np.linalg.inv(precision), atol=2e-3)
    assert model.draw(1.0, random.Random(0), 0.0).weights == pytest.approx(weights)


def test_a_path_is_carried_on_stage_by_stage_and_its_best_counts() -> None:
    still = random.Random(0)
    assert Curve((0.1, 0.0, 0.0), 0.0).best_ahead(0.2, 0.0, 3, still) == pytest.approx(0.5)
    assert Curve((0.0, 0.0, 0.5), 0.0).best_ahead(0.0, 0.4, 2, still) == pytest.approx(0.3)
    assert Curve((0.0, -0.5, 0.0), 0.0).best_ahead(1.0, 0.0, 3, still) == pytest.approx(0.5), (
        "the first of three that fall"
    )
    noisy = [Curve((0.0, 0.0, 0.0), 0.1).best_ahead(0.0, 0.0, 1, random.Random(i)) for i in range(4000)]
    assert (fmean(noisy), stdev(noisy)) == (pytest.approx(0, abs=0.01), pytest.approx(0.1, abs=0.01))
