"""`task=tower`: `k035:` asks for the room that is reached from room k through the doors 0, 3 and 5."""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmzero.core.errors import UserError
from llmzero.core.settings import setting
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.generated import Generated
from llmzero.tasks.metro import ASKED, COUNTS, LATIN
from llmzero.tasks.splits import content_id


@dataclass
class TowerSettings:
    """`task=tower`.

    Raises:
        UserError: there are more rooms or doors than characters for them.
    """

    rooms: int = setting(10, "of each floor, the ground floor and the top one, too", low=3)
    floors: int = setting(6, "to climb", low=1)
    doors: int = setting(2, "kinds of doors on each floor; every room has one of each kind", low=1)
    seed: int = setting(0, "of the doors and of the problems; splits are disjoint across seeds")
    train_size: int = setting(540, "training examples", low=1)
    val_size: int = setting(180, "validation examples", low=2)
    test_size: int = setting(180, "test examples", low=2)
    wrong_share: float = setting(
        0.7, "share of the writings that go through a door to its wrong room", low=0, high=1
    )
    wrong_spread: float = setting(
        0.1, "how far a door's own such share, drawn evenly, may lie from it", low=0, high=1
    )

    def __post_init__(self) -> None:
        for what, wanted, there_are in (
            ("rooms", self.rooms * (self.floors + 1), len(LATIN)),
            ("doors", self.doors * self.floors, len(COUNTS)),
        ):
            if wanted > there_are:
                raise UserError(
                    f"task.{what}={getattr(self, what)}: {wanted} {what} on {self.floors} floors have no "
                    f"character each, of which there are {there_are}; lower it, or task.floors"
                )

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        return (
            "Prompts such as `k035:` ask for the room that is reached from room k through the "
            f"doors 0, 3 and 5, on up to {self.floors} floors whose doors have to be known by "
            "heart. An answer names the rooms, floor by floor. Reward: 1, the most, where there "
            "are as many as doors and the last one is right, else 0; the score is the share of "
            "right answers."
        )


class Tower(Generated):
    """Ways up a tower whose doors are knowledge, not in the prompt.

    Rooms and doors of every floor have characters of their own. All ways begin on the ground floor, so a way
    of n floors passes doors of the floors 1 to n: what is behind the doors of a high floor can be learnt from
    hard problems alone, and only by who knows the floors below. An answer names the rooms, floor by floor, as
    `nBK` to `c035:`; the last one counts. In the writings that a base model is taught on each door leads to
    the same wrong room in some of them. As many problems of each length are drawn, as far as they exist; of
    the shortest there are few.
    """

    metric = "correct"

    def __init__(self, settings: TowerSettings) -> None:
        self.settings = settings
        rooms, doors, floors = settings.rooms, settings.doors, settings.floors
        self.rooms = [LATIN[i * rooms : (i + 1) * rooms] for i in range(floors + 1)]
        self.doors = [COUNTS[i * doors : (i + 1) * doors] for i in range(floors)]
        self.alphabet = "".join([*LATIN[: rooms * (floors + 1)], *self.doors, ASKED])
        self.behind: dict[tuple[str, str], str] = {}
        self.wrong: dict[tuple[str, str], str] = {}
        self.wrong_share: dict[tuple[str, str], float] = {}
        rng = random.Random(f"tower/{settings.seed}")
        for floor, (here, above) in enumerate(zip(self.rooms[:-1], self.rooms[1:], strict=True)):
            for door in self.doors[floor]:
                for room, behind in zip(here, rng.sample(above, rooms), strict=True):
                    way = room, door
                    self.behind[way] = behind
                    self.wrong[way] = rng.choice([other for other in above if other != behind])
                    self.wrong_share[way] = settings.wrong_share + rng.uniform(-1, 1) * settings.wrong_spread
        sizes = {name: getattr(settings, f"{name}_size") for name in ("train", "val", "test")}
        super().__init__("tower", sizes, settings.seed)

    def draw(self, rng: random.Random) -> Example:
        """Return a way up; every length is as likely as any other."""
        length = rng.randint(1, self.settings.floors)
        prompt = rng.choice(self.rooms[0]) + "".join(map(rng.choice, self.doors[:length])) + ASKED
        return Example(
            content_id(f"tower:{prompt}"),
            prompt,
            self._climb(prompt)[-1],
            {"length": length, "difficulty": length},
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 1 if the completion names as many rooms as there are doors, and last the right one."""
        rooms = completion.strip()
        formed = len(rooms) == example.meta["length"]
        correct = float(formed and rooms[-1] == example.answer)
        return Reward(correct, {"correct": correct, "format": float(formed)})

    def demonstration(self, example: Example) -> str:
        """Return the rooms of the right way."""
        return self._climb(example.prompt)

    def careless(self, example: Example) -> str:
        """Return the first writing, with its faults."""
        return self.writing(example, 0)

    def writing(self, example: Example, number: int) -> str:
        """Return one of the writings that the base model is taught, each drawn anew with its faults."""
        return self._climb(example.prompt, random.Random(f"tower/{self.settings.seed}/{example.id}/{number}"))

    def _climb(self, prompt: str, errs: random.Random | None = None) -> str:
        """Return the rooms of a way; with `errs`, a wrong one now and then, from where it goes on."""
        room, passed = prompt[0], ""
        for door in prompt[1:-1]:
            wrong = errs is not None and errs.random() < self.wrong_share[room, door]
            room = (self.wrong if wrong else self.behind)[room, door]
            passed += room
        return passed
