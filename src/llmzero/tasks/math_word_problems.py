"""Texts of grade-school problems of two to four steps, with integer answers."""

from __future__ import annotations

import random
from collections.abc import Callable

NAMES = (
    "Ada",
    "Ben",
    "Chloe",
    "Deniz",
    "Emil",
    "Fatima",
    "Goran",
    "Hana",
    "Ivan",
    "Jun",
    "Kofi",
    "Lena",
    "Mira",
    "Noor",
    "Omar",
    "Priya",
)
THINGS = ("apples", "books", "coins", "eggs", "marbles", "pencils", "roses", "shells", "stamps", "tickets")
PLACES = ("the market", "the harbour", "the library", "the station", "the old mill", "the lighthouse")

Problem = tuple[str, int]


def word_problem(rng: random.Random) -> Problem:
    """Return a question and its answer, an integer that may be zero or negative."""
    return rng.choice(KINDS)(rng)


def _shopping(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    count, price, paid = rng.randint(3, 24), rng.randint(2, 15), rng.choice((100, 200, 500))
    question = (
        f"{name} buys {count} {thing} for {price} dollars each and pays with {paid} dollars. "
        f"How many dollars of change does {name} get?"
    )
    return question, paid - count * price


def _sharing(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    friends, each, rest = rng.randint(2, 12), rng.randint(3, 30), rng.randint(1, 40)
    question = (
        f"{name} has some {thing}, keeps {rest} of them, and shares the rest equally "
        f"among {friends} friends, who get {each} each. How many {thing} did {name} have?"
    )
    return question, friends * each + rest


def _walking(rng: random.Random) -> Problem:
    name, goal = rng.choice(NAMES), rng.choice(PLACES)
    speed, hours, faster, more = rng.randint(3, 7), rng.randint(2, 6), rng.randint(1, 4), rng.randint(1, 5)
    question = (
        f"On the way to {goal}, {name} walks {hours} hours at {speed} km per hour and then {more} hours "
        f"{faster} km per hour faster. How many kilometres is that?"
    )
    return question, speed * hours + (speed + faster) * more


def _boxes(rng: random.Random) -> Problem:
    thing = rng.choice(THINGS)
    boxes, rows, each, broken = rng.randint(2, 15), rng.randint(2, 9), rng.randint(3, 12), rng.randint(1, 30)
    question = (
        f"There are {boxes} boxes with {rows} rows of {each} {thing}. "
        f"After {broken} {thing} are taken away, how many are left?"
    )
    return question, boxes * rows * each - broken


def _ages(rng: random.Random) -> Problem:
    old, young = rng.sample(NAMES, 2)
    age, factor, years = rng.randint(3, 14), rng.randint(2, 5), rng.randint(2, 20)
    question = (
        f"{old} is {factor} times as old as {young}, who is {age}. "
        f"How old are they together in {years} years?"
    )
    return question, factor * age + age + 2 * years


def _percent(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    hundreds, share, more = (
        rng.randint(1, 12),
        rng.choice((5, 10, 15, 20, 25, 40, 60, 75)),
        rng.randint(5, 90),
    )
    question = (
        f"{name} sells {share}% of {100 * hundreds} {thing} and then finds {more} more. "
        f"How many {thing} does {name} have now?"
    )
    return question, 100 * hundreds - share * hundreds + more


def _remainder(rng: random.Random) -> Problem:
    first, second, modulus = rng.randint(20, 400), rng.randint(3, 60), rng.randint(3, 23)
    return (
        f"What is the remainder when {first} times {second} is divided by {modulus}?",
        first * second % modulus,
    )


KINDS: tuple[Callable[[random.Random], Problem], ...] = (
    _shopping,
    _sharing,
    _walking,
    _boxes,
    _ages,
    _percent,
    _remainder,
)
