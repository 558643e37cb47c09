"""Sheet music: what prompts say is read by music21's ABC parser and judged apart from the generator."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from music21 import chord, converter, interval, meter, pitch
from music21.stream import Stream

from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.tasks import music_answers, music_nano, packages
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.music import SheetMusicSettings, sheet_music
from llmzero.tasks.music_nano import ShortMusic
from llmzero.tasks.music_questions import SheetMusic
from llmzero.tasks.splits import Split

SIZES = {"train": 4800, "val": 1000, "test": 1000}
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SUBTASKS = {"rhythm", "chord", "interval", "scale"}
OPTION = re.compile(r"^([A-D])\. (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def full() -> SheetMusic:
    return SheetMusic(SIZES, seed=0, template=None)


@pytest.fixture(scope="module")
def nano() -> ShortMusic:
    return ShortMusic(SIZES, seed=0)


def answered(task: SheetMusic, example: Example, text: str) -> Reward:
    return task.reward(example, f"So it is <answer> {text} </answer>")


# --- splits ---


def test_splits_of_the_default_sizes_exist_and_are_disjoint(full: SheetMusic, nano: ShortMusic) -> None:
    for task in (full, nano):
        splits = {name: task.split(name) for name in SPLITS}
        assert {name: len(split) for name, split in splits.items()} == SIZES
        assert (
            len({e.id for split in splits.values() for e in split})
            == len({e.prompt for split in splits.values() for e in split})
            == 6800
        )
        for split in splits.values():
            shares = {
                subtask: sum(e.meta["subtask"] == subtask for e in split) / len(split) for subtask in SUBTASKS
            }
            assert all(0.18 < share < 0.35 for share in shares.values()), shares


@pytest.mark.parametrize("kind", [partial(SheetMusic, template=None), ShortMusic], ids=["full", "nano"])
def test_splits_are_the_same_on_every_call_and_stay_disjoint_across_seeds(
    kind: Callable[..., SheetMusic | ShortMusic],
) -> None:
    sizes = {"train": 150, "val": 60, "test": 60}
    first, again, other = kind(sizes, 0), kind(sizes, 0), kind(sizes, 1)
    assert first.split("val") == again.split("val") != other.split("val")
    assert {e.id for e in first.split("val")}.isdisjoint(e.id for e in other.split("train"))


# --- full difficulty: what the notes say ---


def parsed(abc: str) -> Stream[Any]:
    return converter.parse(abc, format="abc")


def sheet_of(example: Example) -> str:
    match = re.search(r"X:1\n(?:[A-Z]:.*\n)+.*", example.prompt)
    return match[0] if match else ""


def notes_of(abc: str) -> list[pitch.Pitch]:
    return [each for one in parsed(abc).recurse().notes for each in one.pitches]


def bars_of(abc: str) -> list[list[Fraction]]:
    """Return the notes' lengths in quarters, bar by bar."""
    head, body = abc.rsplit("\n", 1)
    bars = [bar for bar in body.removesuffix("]").split("|") if bar.strip()]
    return [[Fraction(one.quarterLength) for one in parsed(f"{head}\n{bar}").recurse().notes] for bar in bars]


def named(text: str) -> pitch.Pitch:
    return pitch.Pitch(text[0] + text[1:].replace("b", "-"))


def bar_of(abc: str) -> Fraction:
    return Fraction(meter.TimeSignature(re.findall("M:(.*)", abc)[0]).barDuration.quarterLength)


PATTERNS = {
    "major": "2212221",
    "natural minor": "2122122",
    "harmonic minor": "2122131",
    "dorian": "2122212",
    "phrygian": "1222122",
    "lydian": "2221221",
    "mixolydian": "2212212",
}


def is_scale(pitches: Sequence[pitch.Pitch], name: str) -> bool:
    tonic, kind = name.split(" ", 1)
    rising = list(pitches) if pitches[0].ps < pitches[-1].ps else list(reversed(pitches))
    steps = "".join(str(int(upper.ps - lower.ps)) for lower, upper in pairwise(rising))
    letters = [each.diatonicNoteNum - rising[0].diatonicNoteNum for each in rising]
    return bool(rising[0].name == named(tonic).name) and steps == PATTERNS[kind] and letters == list(range(8))


def is_chord(pitches: Sequence[pitch.Pitch], name: str) -> bool:
    root, kind = name.split(" ", 1)
    made = chord.Chord(list(pitches))
    common = made.commonName.removesuffix(" chord").removesuffix(" triad")
    return bool(made.root().name == named(root).name and common == kind)


def fits_meter(abc: str, question: str, text: str) -> bool:
    length = Fraction(meter.TimeSignature(text).barDuration.quarterLength)
    return all(sum(bar) == length for bar in bars_of(abc))


def places_lines(abc: str, question: str, text: str) -> bool:
    ends = [int(end) for end in text.split(", ")]
    (lengths,) = bars_of(abc)
    bars = [lengths[start:end] for start, end in zip([0, *ends], [*ends, len(lengths)], strict=True)]
    return all(sum(bar) == bar_of(abc) for bar in bars)


def is_odd_bar(abc: str, question: str, text: str) -> bool:
    complete = [sum(bar) == bar_of(abc) for bar in bars_of(abc)]
    looked_for = "is complete" in question
    return complete.count(looked_for) == 1 and complete.index(looked_for) + 1 == int(text)


def completes(abc: str, question: str, text: str) -> bool:
    (lengths,) = bars_of(abc)
    return sum(lengths) + 4 * Fraction(text) == bar_of(abc)


def completes_chord(abc: str, question: str, text: str) -> bool:
    name = re.findall("this chord (.*)\\?", question)[0]
    return is_chord([*notes_of(abc), named(text)], name)


def is_interval(abc: str, question: str, text: str) -> bool:
    return bool(interval.Interval(*notes_of(abc)).niceName.lower() == text)


def is_so_far(abc: str, question: str, text: str) -> bool:
    name, way = re.findall("is an? (.*) (above|below) this", question)[0]
    made = interval.Interval(notes_of(abc)[0], notes_of(f"X:1\nL:1/4\nK:C\n{text} |]")[0])
    return bool(made.niceName.lower() == name and (made.semitones > 0) == (way == "above"))


def sounds(abc: str, question: str, text: str) -> bool:
    semitones = int(re.findall(r"is (\d+) semitone", question)[0])
    return bool((named(text).pitchClass - notes_of(abc)[0].pitchClass - semitones) % 12 == 0)


def mends_scale(abc: str, question: str, text: str) -> bool:
    pitches, name = notes_of(abc), re.findall("of this (.*) scale", question)[0]
    mended = [
        pitch.Pitch(f"{named(text).name}{each.octave}") if each.step == text[0] else each
        for each in pitches[1:-1]
    ]
    return not is_scale(pitches, name) and is_scale([pitches[0], *mended, pitches[-1]], name)


QUESTIONS: dict[str, Callable[[str, str, str], bool]] = {
    "Every bar of this music": fits_meter,
    "The bar lines of": places_lines,
    "One bar of these": is_odd_bar,
    "How long is the": completes,
    "Which chord is": lambda abc, question, text: is_chord(notes_of(abc), text),
    "Of which kind": lambda abc, question, text: is_chord(
        notes_of(abc), f"{chord.Chord(notes_of(abc)).root().name} {text}"
    ),
    "What is the root": lambda abc, question, text: (
        chord.Chord(notes_of(abc)).root().name == named(text).name
    ),
    "Which note must be added": completes_chord,
    "Which interval": is_interval,
    "Which note is a": is_so_far,
    "Which note is": sounds,
    "Which scale": lambda abc, question, text: is_scale(notes_of(abc), text),
    "With the key": lambda abc, question, text: is_scale(
        notes_of(f"X:1\nL:1/4\nK:C\n{text}"), re.findall("ascending (.*) scale", question)[0]
    ),
    "One note of": mends_scale,
}


def question_of(example: Example) -> str:
    return next(start for start in QUESTIONS if example.prompt.startswith(start))


def test_the_parsed_notes_confirm_every_answer(full: SheetMusic) -> None:
    """The stated answer is right, and of four options it is the only one."""
    seen = dict.fromkeys(QUESTIONS, 0)
    for example in [*full.split("val"), *full.split("test")]:
        start = question_of(example)
        if seen[start] == 30:
            continue
        seen[start] += 1
        right = cache(
            lambda text, example=example, start=start: QUESTIONS[start](
                sheet_of(example), example.prompt, text
            )
        )
        if options := OPTION.findall(example.prompt):
            assert [letter for letter, text in options if right(text)] == [example.answer], example.prompt
            assert len(options) == 4
        else:
            assert right(example.answer), (example.prompt, example.answer)
    assert set(seen.values()) == {30}


def test_right_answers_earn_everything_and_free_and_chosen_ones_are_asked_for(full: SheetMusic) -> None:
    for example in full.split("test"):
        assert answered(full, example, example.answer).value == 1
        assert full.reward(example, f"It is {example.answer}.").value == 0, "not where it was asked for"
    letters = [e.answer for e in full.split("test") if OPTION.findall(e.prompt)]
    assert 400 < len(letters) < 600
    assert all(100 < letters.count(letter) < 160 for letter in "ABCD")


# --- answers ---


@pytest.mark.parametrize(
    ("kind", "answer", "right", "wrong"),
    [
        ("note", "F#", "F♯|f sharp|F-sharp|^F|F #", "Gb|F|F##|F# or Gb|F# G|F#4|"),
        ("note", "Bb", "bb|B flat|_B|B♭", "B|A#|bbb|B-"),
        ("sound", "F#", "Gb|G flat|E##|^F", "F|G|F# F#"),
        ("abc", "f", "=f", "F|f'|^e|[f]|f2"),
        ("abc", "^C,", "^C,", "^C|_D,|C,|^c,"),
        (
            "interval",
            "minor third",
            "m3|Minor 3rd|min 3|minor  third",
            "M3|third|augmented second|m3 M3|minor",
        ),
        ("interval", "perfect octave", "P8|octave|perf 8th", "P1|perfect unison|d8"),
        ("interval", "augmented fourth", "A4|aug 4th", "d5|tritone|P4"),
        ("chord", "A minor", "Am|a min|A minor triad|A minor chord", "A|C major|Am7|AM|A minor or C major"),
        ("chord", "F# half-diminished seventh", "F#m7b5|F#ø7|F sharp half-diminished", "Gbm7b5|F#dim7|Am6"),
        ("chord", "C major seventh", "CM7|Cmaj7|C major 7th", "C7|Cm7|C Major"),
        ("quality", "minor", "m|minor triad|Minor", "M|minor seventh|major"),
        (
            "scale",
            "D natural minor",
            "Dm|D minor|D aeolian|d minor scale",
            "D|F major|D dorian|D harmonic minor",
        ),
        ("scale", "Bb major", "Bb|B flat major|Bb ionian|bb Major key", "B major|A# major|Bbm"),
        ("meter", "4/4", "C|2/2|8/8|4 / 4|common time", "3/4|4/0|44|0/4|4/5"),
        ("duration", "3/8", "dotted quarter|6/16|Dotted quarter note", "quarter|3/4|0/8|3/0"),
        ("duration", "1/16", "sixteenth|16th note", "eighth|1/8"),
        ("places", "3, 7", "3,7|3 7|3 and 7", "3|7, 3|3, 7, 9|37|٣, 7"),
        ("letter", "B", "(B)|b|B.|B)", "A|A B|A, B, C, D|ABCD|B or C|the second"),
    ],
)
def test_answers_are_compared_by_what_they_mean(
    full: SheetMusic, kind: str, answer: str, right: str, wrong: str
) -> None:
    example = Example("1", "", answer, {"subtask": "", "kind": kind})
    assert {text: answered(full, example, text).value for text in right.split("|")} == dict.fromkeys(
        right.split("|"), 1.0
    )
    assert {
        text: answered(full, example, text).parts["correct"] for text in wrong.split("|")
    } == dict.fromkeys(wrong.split("|"), 0.0)


PIECES = (
    *(
        "<answer>",
        "</answer>",
        "\\boxed{",
        "}",
        "[",
        "]",
        "((((((",
        "\x00",
        "\ud800",
        "٣",
        "𝟗",
        "♯",
        "♭",
        "𝄪",
        "#",
        "b",
        "^",
        "_",
        "=",
        "'",
        ",",
    ),
    *(
        "10**10**10",
        "1/0",
        "9" * 400,
        "A",
        "(B)",
        "F#",
        "m3",
        "minor",
        "7",
        "/",
        "4/4",
        "dotted",
        "X:1\nK:C\n",
        "|",
        ":",
        " ",
        "\n",
        "C2",
        "[CEG]" * 400,
    ),
)


def test_no_completion_breaks_a_reward(full: SheetMusic, nano: ShortMusic) -> None:
    rng = random.Random(0)
    for task in (full, nano):
        by_kind = {e.meta.get("kind", "") + e.meta["subtask"]: e for e in task.split("val")}
        for number in range(4000):
            text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 10)))
            reward = task.reward(
                list(by_kind.values())[number % len(by_kind)],
                f"<answer>{text}</answer>" if number % 2 else text,
            )
            assert 0 <= reward.value <= 1
            assert set(reward.parts) == {"format", "correct"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000,
        "<answer>" * 5000,
        "<answer>" + "C" * 10_000 + "</answer>",
        "^" * 10_000,
        "\x00" * 10_000,
        "9," * 9000,
    ],
)
def test_long_completions_earn_nothing(full: SheetMusic, nano: ShortMusic, text: str) -> None:
    for task in (full, nano):
        assert {task.reward(example, text).value for example in task.split("val")[:50]} == {0.0}


def test_known_shortcuts_earn_nothing(full: SheetMusic, nano: ShortMusic) -> None:
    for example in full.split("val")[:200]:
        every = [text for _, text in OPTION.findall(example.prompt)] or ["F#", "G"]
        for text in (
            "A, B, C, D",
            "A B C D",
            "ABCD",
            example.prompt,
            sheet_of(example),
            " or ".join([*every, example.answer]),
            "",
        ):
            assert answered(full, example, text).value == 0
    for example in nano.split("val")[:200]:
        for text in (
            example.prompt,
            example.prompt + example.answer,
            f"{example.answer} {example.answer}",
            "C" * 16,
            "".join(music_nano.NOTES),
        ):
            assert nano.reward(example, text).value == 0


# --- nano difficulty ---


def in_music21(text: str) -> list[pitch.Pitch]:
    return [
        pitch.Pitch(letter + {"^": "#", "_": "-", "": ""}[sign])
        for sign, letter in re.findall("([_^]?)([A-G])", text)
    ]


def judged(example: Example, text: str) -> bool:
    """Judge a well-formed completion by music21."""
    meta, pitches = example.meta, in_music21(text)
    if meta["subtask"] == "rhythm":
        bar, count = re.fullmatch(r".*\|(.*)\+(\d):", example.prompt).groups()  # type: ignore[union-attr]
        (lengths,) = bars_of(f"X:1\nL:1/8\nK:C\n{bar}{text} |]")
        length = meter.TimeSignature(example.prompt.split("|")[0]).barDuration.quarterLength
        return len(pitches) == int(count) and sum(lengths) == Fraction(length)
    prompted = {each.name for each in in_music21(example.prompt.split("|")[1])}
    if meta["subtask"] == "chord":
        name = {"M": "major triad", "m": "minor triad", "o": "diminished triad"}[meta["kind"]]
        made = chord.Chord([f"{each.name}4" for each in pitches])
        ordered = [
            ("CDEFGAB".index(each.step) - "CDEFGAB".index(pitches[0].step)) % 7 for each in pitches
        ] == [
            0,
            2,
            4,
        ]
        return (
            ordered
            and made.commonName == name
            and made.root().name == pitches[0].name
            and len(prompted & {each.name for each in pitches}) >= 2
        )
    if meta["subtask"] == "interval":
        upper = pitches[0].transpose(meta["interval"])
        return pitches[0].name in prompted and upper.name == pitches[1].name
    names = {"M": "major", "m": "natural minor", "h": "harmonic minor", "d": "dorian"}
    tonic = pitches[0].name.replace("-", "b")
    notes = music_answers.read("scale", f"{tonic} {names[meta['kind']]}")
    return isinstance(notes, tuple) and prompted <= set(notes)


def test_nano_rewards_agree_with_music21(nano: ShortMusic) -> None:
    rng = random.Random(0)
    pool = {
        subtask: [e for e in nano.split("val") if e.meta["subtask"] == subtask][:60] for subtask in SUBTASKS
    }
    for subtask, examples in pool.items():
        verdicts = []
        for example in examples:
            texts = [
                example.answer,
                nano.careless(example),
                rng.choice(examples).answer,
                rng.choice(examples).answer,
            ]
            verdicts += [nano.reward(example, text).parts["correct"] for text in texts]
            assert verdicts[-4:] == [float(judged(example, text)) for text in texts], (
                subtask,
                example,
                texts,
            )
        assert 60 <= sum(verdicts) < 200


def test_nano_problems_can_be_warm_started_on(nano: ShortMusic) -> None:
    examples = nano.split("train")
    assert all(
        set(e.prompt + nano.demonstration(e) + nano.careless(e)) <= set(nano.alphabet) for e in examples
    )
    assert max(len(e.prompt) for e in examples) <= 24
    assert max(len(nano.demonstration(e)) for e in examples) <= 16
    assert {nano.reward(e, nano.demonstration(e)).value for e in examples} == {1.0}
    careless = [nano.reward(e, nano.careless(e)) for e in examples]
    assert {reward.parts["format"] for reward in careless} == {1.0}
    assert sum(reward.parts["correct"] for reward in careless) < 0.12 * len(examples)


# --- the published benchmark ---

ROW = {
    "class_name": "IntervalNumberQuestion",
    "category": "Interval",
    "difficulty": "easy",
    "question": "Which interval is it?",
    "abc_context": "L:1/4\nK:C\nC E",
    "correct_answer": "major third",
    "incorrect_answer1": "minor third",
    "incorrect_answer2": "perfect fourth",
    "incorrect_answer3": "major second",
}


def published(path: Path, **sizes: int) -> SheetMusicSettings:
    return SheetMusicSettings(difficulty="full", source="published", path=str(path), **sizes)


def rows(*changes: dict[str, Any]) -> str:
    return "".join(json.dumps(ROW | change) + "\n" for change in changes)


def test_the_published_benchmark_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "Mixed.jsonl"
    beat = {
        "category": "Beat",
        "question": "Select the correct time signature.",
        "correct_answer": "4/4",
        "incorrect_answer1": "3/4",
    }
    choice = {"category": "Scale", "abc_context": "", "correct_answer": "L:1/4\nK:C\nC D E F"}
    file.write_text(rows({}, beat, choice, {"category": "Chord-e", "question": "Which root?"}, {}))
    task = sheet_music(published(file, train_size=20, val_size=10))
    test = task.split("test")
    assert [e.meta["subtask"] for e in test] == ["interval", "rhythm", "scale", "chord"], (
        "and the row that comes twice is one problem"
    )
    for example, right in zip(
        test, ("major third", "4/4", "L:1/4\nK:C\nC D E F", "major third"), strict=True
    ):
        assert f"\n{example.answer}. {right}\n" in example.prompt
        assert [task.reward(example, f"<answer>{letter}</answer>").value for letter in "ABCD"].count(1.0) == 1
        assert task.reward(example, f"<answer>{example.answer}</answer>").value == 1
    assert "L:1/4\nK:C\nC E" in test[0].prompt
    assert [len(task.split("train")), len(task.split("val"))] == [20, 10], (
        "generated, as the benchmark has nothing to train on"
    )


def test_rows_that_are_no_problems_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "Mixed.jsonl"
    twice = {"incorrect_answer2": ROW["correct_answer"]}
    odd: list[dict[str, Any]] = [
        {"question": None},
        {"incorrect_answer3": None},
        twice,
        {"correct_answer": " "},
    ]
    other = {"correct_answer": "minor sixth"}
    file.write_text(rows({}, *({"question": f"{i}?", **each} for i, each in enumerate(odd)), other, {}))
    (example,) = sheet_music(published(file)).split("test")
    assert "major third" in example.prompt
    (message,) = (record.getMessage() for record in caplog.records)
    assert (
        "5 of 6 problems are left out (task.unverified=skip): test[1]: has no question; test[2]:" in message
    )
    assert "test[3]: its right answer 'major third' is one of its wrong ones" in message
    assert "test[5]: answers 'minor sixth'; test[0] answers the same prompt 'major third'" in message
    with pytest.raises(UserError, match=r"split test has 1 problems, and needs 3; lower task\.test_size"):
        sheet_music(published(file, test_size=3)).split("test")


def test_a_published_training_split_is_divided_by_content(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        rows(*({"question": f"Which interval is number {number}?"} for number in range(40)))
    )
    (tmp_path / "test.jsonl").write_text(
        rows(*({"question": f"Which interval is number {number}?"} for number in range(5)))
    )
    task = sheet_music(published(tmp_path, test_size=4))
    ids = {name: {e.id for e in task.split(name)} for name in SPLITS}
    assert len(ids["test"]) == 4
    assert len(ids["train"]) + len(ids["val"]) == 35
    assert ids["val"]
    assert not ids["train"] & ids["val"]


def test_what_cannot_be_read_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.jsonl").write_text('{"question": "?", "abc_context": "", "answer": "A"}\n')
    with pytest.raises(
        UserError, match=r"odd\.jsonl has no field 'correct_answer'; it has question, abc_context, answer"
    ):
        sheet_music(published(tmp_path / "odd.jsonl")).split("test")
    with pytest.raises(UserError, match=r"none cannot be loaded .*task\.path=DIRECTORY"):
        sheet_music(published(tmp_path / "none")).split("test")
    with pytest.raises(UserError, match=r"task\.source=gsm8k: must be one of generated, published"):
        make({"_target_": "llmzero.tasks.music.sheet_music", "source": "gsm8k"}, "task")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package music21: pip install 'llmzero\[tasks\]'"):
        sheet_music(SheetMusicSettings(difficulty="full"))
    nano = sheet_music(SheetMusicSettings(difficulty="nano", train_size=10))
    assert len(nano.split("train")) == 10, "which needs nothing"


def test_a_template_of_your_own_makes_the_prompt(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ question }}|{{ abc }}|{{ options | join('/') }}|{{ form }}")
    sizes = {"train": 5, "val": 5, "test": 5}
    mine, own = SheetMusic(sizes, 0, str(file)), SheetMusic(sizes, 0, None)
    assert [(e.id, e.answer) for e in mine.split("val")] == [(e.id, e.answer) for e in own.split("val")]
    assert all(e.prompt.count("|") >= 3 for e in mine.split("val"))
