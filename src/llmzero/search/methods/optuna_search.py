"""Bayesian optimisation and CMA-ES by Optuna (Akiba et al., 2019), which no other module imports."""

from __future__ import annotations

import random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from llmzero.core.hparams import HParams, Parameter, Value
from llmzero.core.shapes import SCALAR
from llmzero.search.methods.base import MethodContext, memo_of
from llmzero.search.methods.chains import ChainStart, ConstantChains
from llmzero.search.methods.optuna_settings import OptunaSettings
from llmzero.tree.tree import Node, Tree

SAMPLES = 8  # suggestions that may repeat earlier ones, before a configuration is drawn at random

Params = dict[str, Any]  # of a trial, in Optuna's terms


class OptunaSearch(ConstantChains):
    """Trains the configurations that a sampler suggests, each over a whole chain.

    A trial of Optuna's study is a chain, and its value the best score of the chain. The study has no storage:
    after a restart it is made again from the tree. With the first stage of a chain its trial's number and
    parameters are stored, and how many stages had ended by then, so that the new study gets every value at
    the same point as the old one. Each suggestion has a random state of its own, drawn from the seed and the
    chain.

    `tpe` is the tree-structured Parzen estimator (Bergstra et al., 2011), multivariate (Falkner et al.,
    2018); `cmaes` is CMA-ES (Hansen and Ostermeier, 2001) over positions in [0, 1].
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
        self._last_stages: list[Node] = []  # of chains that have ended, in that order
        self._reported = 0  # of these, to the study
        # The latest answer of `start`, and what it depends on: number of the chain, stages that had ended.
        self._answer: tuple[tuple[int, int], ChainStart | None] = ((-1, -1), None)

    def start(self, tree: Tree, number: int) -> ChainStart | None:
        """Return the practitioner's configuration first, then suggestions of the sampler; None after all."""
        if self.tried.all:
            return None
        for chain in tree.root.children[len(self._trials) :]:
            self._restore(tree, tree[chain])
        ended = len(tree.finished)
        if self._answer[0] != (number, ended):
            self._report(tree, ended)
            params, why = self._suggested(number)
            memo = {"trial": self._asked - 1, "ended": ended, "params": params}
            self._answer = (number, ended), ChainStart(self._hparams(params), why, memo)
        return self._answer[1]

    def chain_ended(self, tree: Tree, node: Node) -> None:
        """Note that a trial has a value, to be reported before the next suggestion."""
        self._last_stages.append(node)

    def _restore(self, tree: Tree, first: Node) -> None:
        """Note the trial of a chain, by its first stage; after a restart, make the trial again."""
        memo = memo_of(self.context, first, {"trial": int, "ended": int, "params": {str: SCALAR}})
        if memo["trial"] >= self._asked:
            self._report(tree, memo["ended"])
            for _ in range(self._asked, memo["trial"]):
                self._study.add_trial(create_trial(state=TrialState.FAIL))
            self._asked = memo["trial"]
            sampler = RandomSampler() if self.sampler == "tpe" else self._sampler(str(self._asked))
            self._ask(sampler, memo["params"])
        self._trials[first.node_id] = memo["trial"]

    def _report(self, tree: Tree, ended: int) -> None:
        """Report the chains to the study that had ended with the first `ended` stages.

        A trial without any score counts as the worst.
        """
        while (
            self._reported < len(self._last_stages)
            and (self._last_stages[self._reported].finished_order or 0) < ended
        ):
            path = tree.path(self._last_stages[self._reported].node_id)[1:]
            scores = [node.score for node in path if node.usable and node.score is not None]
            state = None if scores else TrialState.PRUNED
            self._study.tell(self._trials[path[0].node_id], max(scores, default=None), state=state)
            self._reported += 1

    def _suggested(self, number: int) -> tuple[Params, str]:
        """Return the parameters of a new trial, whose configuration was not tried, and why."""
        if number == 0:
            params = self._ask(self._sampler("0"), self._params(self.context.catalogue.defaults()))
            return params, "The first trial is the practitioner's configuration."
        for sample in range(SAMPLES):
            params = self._ask(self._sampler(f"{number}/{sample}"))
            if self._hparams(params) not in self.tried:
                return params, f"Suggested by {self.sampler} after {self._reported} chains."
            self._study.tell(self._asked - 1, state=TrialState.FAIL)
        untried = self.tried.draw(random.Random(f"{self.context.seed}/{number}"))
        assert untried is not None
        params = self._ask(self._sampler(f"{number}"), self._params(untried))
        return params, f"{self.sampler} suggests what was tried already; drawn at random."

    def _ask(self, sampler: BaseSampler, params: Params | None = None) -> Params:
        """Return the parameters of the study's next trial: `params`, or what the sampler suggests.

        The sampler is asked in either case, which Optuna would leave out where all parameters are fixed:
            CMA-ES records the generation of a trial when it samples.
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
    """Return Optuna's distribution of a parameter: its position in [0, 1], or the index of a choice.

    For `tpe` numbers to choose from are ordered and other choices are not; for `cmaes` everything is a
    position.
    """
    if sampler == "cmaes" or parameter.choices is None:
        return FloatDistribution(0.0, 1.0)
    indices = range(len(parameter.choices))
    return CategoricalDistribution(indices) if parameter.kind == "choice" else IntDistribution(0, indices[-1])


def decoded(space: BaseDistribution, parameter: Parameter, value: Any) -> Value:
    """Return the value of a parameter that Optuna's value stands for."""
    return (
        parameter.at(value)
        if isinstance(space, FloatDistribution) or parameter.choices is None
        else parameter.choices[value]
    )


def encoded(space: BaseDistribution, parameter: Parameter, value: Value) -> Any:
    """Return Optuna's value for the value of a parameter: the inverse of `decoded`."""
    return (
        parameter.position(value)
        if isinstance(space, FloatDistribution) or parameter.choices is None
        else parameter.choices.index(value)
    )
