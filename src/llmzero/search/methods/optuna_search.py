"""Bayesian optimisation and evolution strategies by Optuna (Akiba et al., 2019): `search=tpe` and `search=cmaes`.

No other module imports Optuna.
"""

from __future__ import annotations

import random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from llmzero.core.hparams import HParams, Parameter, Value
from llmzero.search.methods.base import MethodContext
from llmzero.search.methods.chains import ConstantChains, Start
from llmzero.search.methods.optuna_settings import OptunaSettings
from llmzero.tree.tree import Node, Tree

SAMPLES = 8  # that may repeat configurations, before one is drawn at random

Params = dict[str, Any]  # of a trial, in Optuna's terms


class OptunaSearch(ConstantChains):
    """Trains the configurations that a sampler suggests, each over a whole chain. A trial is a chain, its value the best score of it.

    There is no storage: after a restart the study is made again from the tree. The first stage of a chain keeps its trial's number and
    parameters, and how many stages had ended by then, so that every end is told where it was told before. Each suggestion has a random
    state of its own, drawn from the seed and the chain.

    `tpe` is the tree-structured Parzen estimator (Bergstra et al., 2011), multivariate (Falkner et al., 2018); `cmaes` is CMA-ES
    (Hansen and Ostermeier, 2001) over positions in [0, 1].
    """

    def __init__(self, settings: OptunaSettings, context: MethodContext) -> None:
        super().__init__(context, settings.sampler)
        self.sampler = settings.sampler
        self.n_startup_trials = settings.n_startup_trials
        self.space = {
            name: distribution(self.sampler, parameter) for name, parameter in context.catalogue.items()
        }
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(direction="maximize", sampler=RandomSampler())
        self._asked = 0  # trials of the study
        self._trials: dict[str, int] = {}  # by the first stage of their chains
        self._over: list[Node] = []  # the last stages of chains, in the order in which they ended
        self._told = 0  # of those
        self._offered: tuple[tuple[int, int], Start | None] = (
            (-1, -1),
            None,
        )  # what was asked for last: chain, stages that had ended

    def start(self, tree: Tree, number: int) -> Start | None:
        """Return the practitioner's configuration first, then what the sampler suggests; None where all configurations were tried."""
        if self.tried.all:
            return None
        for chain in tree.root.children[len(self._trials) :]:
            self._remember(tree, tree[chain])
        ended = len(tree.finished)
        if self._offered[0] != (number, ended):
            self._tell(tree, ended)
            params, why = self._suggested(number)
            memo = {"trial": self._asked - 1, "ended": ended, "params": params}
            self._offered = (number, ended), Start(self._hparams(params), why, memo)
        return self._offered[1]

    def over(self, tree: Tree, node: Node) -> None:
        """Note that a trial has a value."""
        self._over.append(node)

    def _remember(self, tree: Tree, first: Node) -> None:
        """Take in the first stage of a chain; after a restart, make its trial again."""
        memo = first.memo
        if memo["trial"] >= self._asked:
            self._tell(tree, memo["ended"])
            for _ in range(self._asked, memo["trial"]):
                self._study.add_trial(create_trial(state=TrialState.FAIL))
            self._asked = memo["trial"]
            self._ask(
                RandomSampler() if self.sampler == "tpe" else self._sampler(str(self._asked)), memo["params"]
            )
        self._trials[first.node_id] = memo["trial"]

    def _tell(self, tree: Tree, ended: int) -> None:
        """Tell the study of the chains that were over when so many stages had ended. A trial without any score counts as the worst."""
        while self._told < len(self._over) and (self._over[self._told].finished_order or 0) < ended:
            path = tree.path(self._over[self._told].node_id)[1:]
            scores = [node.score for node in path if node.usable and node.score is not None]
            state = None if scores else TrialState.PRUNED
            self._study.tell(self._trials[path[0].node_id], max(scores, default=None), state=state)
            self._told += 1

    def _suggested(self, number: int) -> tuple[Params, str]:
        """Return the parameters of a new trial, whose configuration was not tried, and why."""
        if number == 0:
            params = self._ask(self._sampler("0"), self._params(self.context.catalogue.defaults()))
            return params, "The first trial is the practitioner's configuration."
        for sample in range(SAMPLES):
            params = self._ask(self._sampler(f"{number}/{sample}"))
            if self._hparams(params) not in self.tried:
                return params, f"Suggested by {self.sampler} after {self._told} chains."
            self._study.tell(self._asked - 1, state=TrialState.FAIL)
        untried = self.tried.draw(random.Random(f"{self.context.seed}/{number}"))
        assert untried is not None
        return self._ask(
            self._sampler(f"{number}"), self._params(untried)
        ), f"{self.sampler} suggests what was tried already; drawn at random."

    def _ask(self, sampler: BaseSampler, params: Params | None = None) -> Params:
        """Return the parameters of the study's next trial: those given, or what the sampler suggests.

        It samples in either case: where all parameters are given Optuna would leave that out, and CMA-ES notes the generation of a trial
        when it samples.
        """
        self._study.sampler = sampler
        if params is not None:
            self._study.enqueue_trial(params)
        self._asked += 1
        trial = self._study.ask(self.space)
        return {**trial.relative_params, **trial.params}

    def _sampler(self, name: str) -> BaseSampler:
        seed = random.Random(f"{self.context.seed}/{name}").randrange(2**31)
        if self.sampler == "tpe":
            return TPESampler(
                n_startup_trials=self.n_startup_trials, multivariate=True, constant_liar=True, seed=seed
            )
        return CmaEsSampler(
            n_startup_trials=self.n_startup_trials, warn_independent_sampling=False, seed=seed
        )

    def _hparams(self, params: Params) -> HParams:
        return {
            name: decoded(self.space[name], parameter, params[name])
            for name, parameter in self.context.catalogue.items()
        }

    def _params(self, hparams: HParams) -> Params:
        return {
            name: encoded(self.space[name], parameter, hparams[name])
            for name, parameter in self.context.catalogue.items()
        }


def distribution(sampler: str, parameter: Parameter) -> BaseDistribution:
    """Return what stands for a parameter: a position in [0, 1] on its own scale, or the index of a choice.

    For `tpe` choices of numbers are in order and others are not; for `cmaes` everything is a position.
    """
    if sampler == "cmaes" or parameter.choices is None:
        return FloatDistribution(0.0, 1.0)
    indices = range(len(parameter.choices))
    return CategoricalDistribution(indices) if parameter.kind == "choice" else IntDistribution(0, indices[-1])


def decoded(space: BaseDistribution, parameter: Parameter, value: Any) -> Value:
    """Return the value of a parameter that stands behind Optuna's."""
    return (
        parameter.at(value)
        if isinstance(space, FloatDistribution) or parameter.choices is None
        else parameter.choices[value]
    )


def encoded(space: BaseDistribution, parameter: Parameter, value: Value) -> Any:
    """Return what stands for a value: the inverse of `decoded`."""
    return (
        parameter.position(value)
        if isinstance(space, FloatDistribution) or parameter.choices is None
        else parameter.choices.index(value)
    )
