"""Molecules: splits, rewards by structure, shortcuts, attacks on the judge, and the published benchmark."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.tasks import packages
from llmzero.tasks.base import Example, Task
from llmzero.tasks.chemistry import ChemistrySettings, chemistry
from llmzero.tasks.chemistry_reactions import REACTIONS
from llmzero.tasks.molecule_frames import FRAMES, SUBSTITUENTS, assembled
from llmzero.tasks.molecules import (
    GROUPS,
    canonical,
    counts,
    edited,
    formula,
    matches,
    measured,
    reacted,
    read,
    rings,
    scaffold,
    similarity,
)

SPLITS = ("train", "val", "test")
ETHYLPHENOL = "CCc1ccc(O)cc1"
LARGER = "COc1ccc(C(=O)NCCc2ccccc2)cc1"


@pytest.fixture(scope="module")
def nano() -> Any:
    return chemistry(ChemistrySettings(difficulty="nano"))


@pytest.fixture(scope="module")
def full() -> Any:
    return chemistry(ChemistrySettings(difficulty="full"))


def published(path: Path) -> ChemistrySettings:
    return ChemistrySettings(difficulty="full", source="published", path=str(path))


def asked(judge: str, answer: str = "", **meta: Any) -> Example:
    return Example("x", "", answer, {"judge": judge, "source": "", **meta})


def value(task: Task, example: Example, answer: str) -> float:
    return task.reward(example, f"I think. <answer> {answer} </answer>").value


# --- splits ---


@pytest.mark.parametrize("difficulty", ["nano", "full"])
def test_the_default_sizes_exist_and_no_molecule_is_in_two_splits(
    difficulty: str, request: pytest.FixtureRequest
) -> None:
    task = request.getfixturevalue(difficulty)
    splits = {name: task.split(name) for name in SPLITS}
    assert {name: len(examples) for name, examples in splits.items()} == {
        "train": 4800,
        "val": 1000,
        "test": 1000,
    }
    molecules = [
        canonical(read(example.meta["source"])) for examples in splits.values() for example in examples
    ]
    assert len(set(molecules)) == 6800
    assert min(Counter(example.meta["subtask"] for example in splits["val"]).values()) > 50
    other = chemistry(
        ChemistrySettings(difficulty=difficulty, train_size=300, val_size=2, test_size=2, seed=1)
    )
    assert {e.id for e in other.split("train")}.isdisjoint(
        e.id for name in ("val", "test") for e in splits[name]
    )


def test_another_process_draws_the_same_problems() -> None:
    code = (
        "from llmzero.tasks.chemistry import ChemistrySettings, chemistry\n"
        "for d in ('nano', 'full'):\n"
        "    print([(e.id, e.prompt, e.answer, e.meta) for e "
        "          in chemistry(ChemistrySettings(difficulty=d, val_size=40)).split('val')])"
    )
    texts = set()
    for seed in ("1", "2"):
        texts.add(
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert len(texts) == 1
    assert "isomer" in texts.pop()


def test_every_frame_takes_every_substituent() -> None:
    texts = [frame.replace("(*)", f"({substituent})") for frame in FRAMES for substituent in SUBSTITUENTS]
    assert all(read(text) is not None for text in texts)
    rng = random.Random(0)
    assert len({canonical(read(assembled(rng))) for _ in range(400)}) > 380


# --- what holds for all answers ---


def test_every_stated_answer_earns_everything(nano: Any, full: Any) -> None:
    assert all(nano.reward(e, nano.demonstration(e)).value == 1 for e in nano.split("train"))
    assert all(value(full, e, e.answer) == 1 for e in full.split("val"))
    assert all(full.reward(e, e.answer).value == 0 for e in full.split("val")), (
        "an answer that is not stated earns nothing"
    )


def test_careless_answers_are_often_wrong_and_sometimes_right(nano: Any) -> None:
    examples = nano.split("val")
    assert (
        0.05 < sum(nano.reward(e, nano.careless(e)).parts["correct"] for e in examples) / len(examples) < 0.4
    )


def test_prompts_and_completions_of_the_nano_model_are_short_and_in_its_alphabet(nano: Any) -> None:
    for example in nano.split("train"):
        assert len(example.prompt) <= 24
        for text in (nano.demonstration(example), nano.careless(example)):
            assert len(text) < 16, "one token is left for the end"
            assert set(example.prompt + text) <= set(nano.alphabet)


def test_the_same_molecule_written_differently_is_the_same_answer(full: Any) -> None:
    toluene = asked("one_of", accepted=["Cc1ccccc1"], source="c1ccccc1")
    for text in (
        "Cc1ccccc1",
        "c1ccccc1C",
        "CC1=CC=CC=C1",
        "[CH3]c1ccccc1",
        "C%12=CC=CC=C%12C",
        "[H]C([H])([H])c1ccccc1",
    ):
        assert value(full, toluene, text) == 1, text
    nitro = asked("one_of", accepted=[canonical(read("C[N+](=O)[O-]"))])
    assert value(full, nitro, "CN(=O)=O") == 1
    left = asked("one_of", accepted=[canonical(read("C[C@H](O)F"), stereo=True)])
    assert (
        value(full, left, "C[C@H](O)F"),
        value(full, left, "C[C@@H](O)F"),
        value(full, left, "CC(O)F"),
    ) == (
        1,
        0.1,
        0.1,
    )
    flat = asked("one_of", accepted=["CC(O)F"])
    assert value(full, flat, "C[C@H](O)F") == 1, "where no stereochemistry is asked for, none is judged"


# --- each subtask ---


@pytest.mark.parametrize(
    ("judge", "answer", "text", "reward"),
    [
        ("number", "2", "2", 1),
        ("number", "2", "3", 0.1),
        ("number", "2", "two", 0),
        ("number", "2", "1 or 2", 0),
        ("number", "2", "2, 3", 0),
        ("number", "2", "٢", 0),
        ("formula", "C2H6O", "C2H6O", 1),
        ("formula", "C2H6O", "OC2H6", 1),
        ("formula", "C2H6O", "CH3CH2OH", 1),
        ("formula", "C2H6O", "C2H6O2", 0.1),
        ("formula", "C2H6O", "CCO", 0.1),
        ("formula", "C2H6O", "C2H6O or CH4", 0),
        ("formula", "C2H6O", "c2h6o", 0),
        ("formula", "C2H6O", "C2H6O+", 0),
        ("word", "No", "no", 1),
        ("word", "No", "Yes", 0.1),
        ("word", "No", "Yes / No", 0),
    ],
)
def test_understanding(full: Any, judge: str, answer: str, text: str, reward: float) -> None:
    assert value(full, asked(judge, answer), text) == pytest.approx(reward)


def test_molecules_are_measured_as_chemists_do() -> None:
    paracetamol = read("CC(=O)Nc1ccc(O)cc1")
    assert formula(paracetamol) == "C8H9NO2"
    assert rings(paracetamol) == 1
    assert scaffold(read("CC(=O)Nc1ccc(Oc2ccccc2)cc1")) == canonical(read("c1ccc(Oc2ccccc2)cc1"))
    assert scaffold(read("CCO")) == ""
    assert {name: number for name, number in counts(paracetamol).items() if number} == {
        "hydroxyl": 1,
        "amide": 1,
    }
    assert {n: c for n, c in counts(read("OC(=O)CC(=O)OCC(=O)CC#N")).items() if c} == {
        "acid": 1,
        "ester": 1,
        "ketone": 1,
        "nitrile": 1,
    }
    assert measured(paracetamol, "tpsa") == pytest.approx(49.33, abs=0.01)
    assert measured(paracetamol, "logp") == pytest.approx(1.35, abs=0.01)
    assert measured(paracetamol, "solubility") < measured(read("OCCO"), "solubility"), (
        "a diol dissolves better"
    )
    assert all(
        matches(read("C" + group.fragment), group.smarts) == 1 for group in GROUPS.values() if group.fragment
    )


def test_editing_changes_one_group_and_nothing_else(full: Any) -> None:
    assert edited(read(ETHYLPHENOL), "hydroxyl", None) == {canonical(read("CCc1ccccc1"))}
    assert edited(read(ETHYLPHENOL), "hydroxyl", "nitro") == {canonical(read("CCc1ccc([N+](=O)[O-])cc1"))}
    added = edited(read(ETHYLPHENOL), None, "bromine")
    assert added == {
        canonical(read(text))
        for text in ("BrCCc1ccc(O)cc1", "CC(Br)c1ccc(O)cc1", "CCc1c(Br)cc(O)cc1", "CCc1cc(Br)c(O)cc1")
    }
    assert edited(read("CC=O"), None, "hydroxyl") == {"O=CCO"}, "at the aldehyde it would make an acid"
    example = asked("one_of", accepted=sorted(added), source=ETHYLPHENOL)
    wrong = (
        "CCc1cc(Br)c(O)c(Br)c1",
        "Cc1ccc(O)c(Br)c1",
        "CCc1ccc(Br)cc1",
        "BrCCc1ccc(OC)cc1",
        "CCc1ccccc1",
        "CCBr",
    )
    assert [value(full, example, text) for text in wrong] == [0.1] * len(wrong)
    assert value(full, example, "c1c(CC)ccc(O)c1Br") == 1


def test_optimisation_pays_for_the_way_to_the_goal_while_the_molecule_stays_similar(full: Any) -> None:
    example = asked("improved", source=ETHYLPHENOL, property="logp", goal=1.0)
    rewards = [
        value(full, example, text)
        for text in ("CCc1ccc(O)cc1", "CCc1ccc(O)cc1F", "CCCc1ccc(O)cc1", "CCc1ccc(OC)cc1Cl")
    ]
    assert rewards[0] == 0
    assert rewards[0] < rewards[1] < rewards[2] < 1
    assert value(full, example, "CCCCCc1ccc(O)cc1") == 1
    assert value(full, example, "Cc1ccc(O)cc1") == pytest.approx(0.1), "it falls"
    assert value(full, example, "CCCCCCCCCC") == pytest.approx(0.1), "another molecule"
    down = asked("improved", source=ETHYLPHENOL, property="logp", goal=-0.2)
    assert value(full, down, "Cc1ccc(O)cc1") == 1
    assert value(full, down, "CCCc1ccc(O)cc1") == pytest.approx(0.1)


def test_reactions_give_what_a_chemist_expects(full: Any) -> None:
    expected = {
        "esterification": ("CCOC(=O)c1ccccc1", "O=C(O)c1ccccc1", "CCO"),
        "amide coupling": ("CNC(=O)c1ccccc1", "O=C(O)c1ccccc1", "CN"),
        "Suzuki": ("c1ccc(-c2ccccc2)cc1", "Brc1ccccc1", "OB(O)c1ccccc1"),
        "reductive amination": ("CN(C)Cc1ccccc1", "O=Cc1ccccc1", "CNC"),
        "hydrolysis of the ester": ("O=C(O)c1ccccc1", "COC(=O)c1ccccc1"),
        "nitro": ("Nc1ccccc1", "O=[N+]([O-])c1ccccc1"),
        "reduction of the ketone": ("CC(O)c1ccccc1", "CC(=O)c1ccccc1"),
        "oxidation of the alcohol": ("CC(=O)c1ccccc1", "CC(O)c1ccccc1"),
    }
    for what, (product, *reactants) in expected.items():
        reaction = next(reaction for reaction in REACTIONS if what in reaction.what)
        assert set(reacted(reaction.smarts, [read(text) for text in reactants])) == {
            canonical(read(product))
        }, what
    examples = [example for example in full.split("val") if example.meta["subtask"] == "reaction"]
    used = {reaction.what for reaction in REACTIONS for e in examples if reaction.what in e.prompt}
    assert len(used) == len(REACTIONS)
    assert all(value(full, example, example.meta["source"]) == 0 for example in examples), (
        "the reactant is no product"
    )


@pytest.mark.parametrize(
    ("prompt", "completion", "reward"),
    [
        ("isomer", "OCC(C)CC", 1),
        ("isomer", "CCCOCC", 1),
        ("isomer", "C(CCCC)O", 0),
        ("isomer", "CCCCCO", 0),
        ("isomer", "CCCCO", 0.1),
        ("isomer", "CCCC(O", 0),
        ("isomer", "CCCOC[CH3]", 0),
        ("isomer", "CCCC.CO", 0),
        ("add", "CCCC(F)CO", 1),
        ("add", "OCCCCCF", 1),
        ("add", "CCCCCCF", 0.1),
        ("add", "CCCC(F)(F)CO", 0.1),
    ],
)
def test_small_molecules(nano: Any, prompt: str, completion: str, reward: float) -> None:
    accepted = {"isomer": [], "add": sorted(edited(read("CCCCCO"), None, "fluorine"))}[prompt]
    example = Example("x", "", "", {"subtask": prompt, "source": "CCCCCO", "accepted": accepted})
    assert nano.reward(example, completion).value == pytest.approx(reward)


# --- shortcuts, and texts that try to break the judge ---

EVERYTHING = "Oc1c(N)c(C#N)c([N+](=O)[O-])c(C=O)c1C(=O)OCC(=O)NCC(S)C(F)(Cl)Br"


def test_known_shortcuts_earn_nothing_beyond_the_form(full: Any) -> None:
    for example in full.split("val"):
        if example.meta["judge"] not in ("one_of", "improved"):
            continue
        source, answer = example.meta["source"], example.answer
        none = [source, f"{answer}.{source}", f"{answer}.O", f"{answer}, {source}", f"{answer} {answer}"]
        none += [f"*{answer}", f"[2H]{answer}", f"{answer} |^1:0|"]
        assert [value(full, example, text) for text in none] == [0] * len(none)
        assert value(full, example, EVERYTHING) == pytest.approx(0.1)
        assert full.reward(example, f"<answer>{answer}</answer> or <answer>{source}</answer>").value == 0, (
            "the last answer counts"
        )


NOT_PLAIN = [
    "[CH3]",
    "C[CH]C",
    "[CH2]C[CH2]",
    "[13CH4]",
    "[CH4:1]",
    "*",
    "[*]C",
    "[H][H]",
    "[H]",
    "CC.CC",
    "C$C",
    "C>>C",
    "",
    "C" * 121,
    "C" * 400,
]


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_what_is_not_one_plain_molecule_is_not_read(text: str) -> None:
    assert read(text) is None


def test_charges_do_not_pass_for_a_better_property(full: Any) -> None:
    example = asked("improved", source=LARGER, property="tpsa", goal=1.0)
    assert value(full, example, "[O-]c1ccc(C(=O)NCCc2ccccc2)cc1") == pytest.approx(0.1)
    assert value(full, example, "COc1ccc(C(=O)NCCc2ccccc2[N+](=O)[O-])cc1") == 1, (
        "a nitro group is no such charge"
    )


def test_repeating_a_part_makes_a_molecule_less_similar() -> None:
    once, often = read("CCOc1ccccc1"), read("c1ccccc1OCCOc1ccccc1OCCOc1ccccc1OCCOc1ccccc1")
    assert similarity(once, often) < 0.4


PLAIN = [
    *(
        "C",
        "c",
        "c1ccccc1",
        "N",
        "n",
        "O",
        "o",
        "S",
        "P",
        "p",
        "B",
        "b",
        "F",
        "Cl",
        "Br",
        "I",
        "=",
        "#",
        ":",
        "/",
        "\\",
        "(",
        ")",
        "-",
        "1",
        "2",
    ),
    *(
        "%10",
        "%99",
        "[nH]",
        "[C@@H]",
        "[C@H]",
        "[N+](=O)[O-]",
        "[H]",
        "[CH4]",
        "[Pt]",
        "[C+4]",
        "[se]",
        "[Xx]",
    ),
]
HOSTILE = [
    *(
        "[",
        "]",
        ".",
        "*",
        "$",
        ">",
        "@",
        "{",
        "|^1:0|",
        "\x00",
        "\ud800",
        "🙂",
        "٣",
        "\n",
        " ",
        "</answer>",
        "<answer>",
        "C2H6O",
        "yes",
        "2",
    ),
    *(
        "(" * 400,
        "[" * 10_000,
        "[H]" * 90,
        "C1" * 120,
        "C%11C%12C%13" * 20,
        "c1ccc2" * 30,
        "C(" * 130,
        "N1" * 2,
        "9" * 5000,
    ),
]


def text_to_break(rng: random.Random) -> str:
    pieces = PLAIN + HOSTILE if rng.random() < 0.5 else PLAIN
    return "".join(rng.choice(pieces) for _ in range(rng.randint(0, 40)))


def test_no_completion_breaks_the_judge(nano: Any, full: Any) -> None:
    rng = random.Random(0)
    kinds = {(e.meta["judge"], e.meta.get("property")): e for e in full.split("val")}
    change = asked("edited", source=ETHYLPHENOL, changes=[("[OX2H]", 1)])
    examples = [
        *kinds.values(),
        change,
        asked("improved", source=ETHYLPHENOL, property="solubility", goal=0.5),
    ]
    small = nano.split("val")
    for _ in range(4000):
        text = text_to_break(rng)
        rewards = [
            full.reward(rng.choice(examples), f"<answer>{text}</answer>"),
            full.reward(rng.choice(examples), text),
        ]
        rewards.append(nano.reward(rng.choice(small), text))
        assert all(0 <= part <= 1 for reward in rewards for part in (reward.value, *reward.parts.values()))


def test_a_cage_of_rings_is_judged_up_to_a_bound() -> None:
    assert read("C12C3C4C1C5C2C3C45") is not None, "cubane"
    labels = [f"%{number}" for number in range(10, 30)]
    assert (
        read("C" + "".join(f"C{label}" for label in labels) + "".join(f"C{label}" for label in labels))
        is None
    ), "twenty rings"


# --- the published benchmark ---

ROWS = [
    ("mol_und", "fg_count", "Count them. Input Molecule: OCCc1ccccc1, Fragment: -O", "1", {}),
    ("mol_und", "ring_count", "Count them. Input Molecule: c1ccc(-c2ccccc2)cc1, Ring: c1ccccc1", "2", {}),
    ("mol_und", "ring_count", "Count them. Input Molecule: c1ccc(CCCc2ccccc2)cc1, Ring: c1ccccc1", "2", {}),
    ("mol_und", "Murcko_scaffold", "Which scaffold? Input Molecule: CCc1ccc(O)cc1", "c1ccccc1", {}),
    ("mol_und", "equivalence", "The same? Molecule A: CCO, Molecule B: OCC.", "Yes", {}),
    (
        "mol_und",
        "ring_system_scaffold",
        "Is it in it? Input Molecule: CCc1ccccc1, Ring System Structure: C1CC1",
        "No",
        {},
    ),
    (
        "mol_edit",
        "add",
        f"Add it. Input Molecule: {LARGER}",
        "",
        {"added_group": "nitro", "reference": "COc1ccc(C(=O)NCCc2ccccc2[N+](=O)[O-])cc1"},
    ),
    (
        "mol_edit",
        "sub",
        f"Change it. Input Molecule: {ETHYLPHENOL}",
        "",
        {"removed_group": "hydroxyl", "added_group": "halo"},
    ),
    ("mol_opt", "logp", "Raise it. Source Molecule: NC(=O)c1cccc(O)c1.", "", {}),
    (
        "reaction",
        "fs",
        "What comes out of CC(=O)O and CCO?",
        json.dumps({"Major Product": "CCOC(C)=O", "Byproduct(s)": "O"}),
        {},
    ),
    ("mol_opt", "drd", "Raise it. Source Molecule: NC(=O)c1cccc(O)c1.", "", {}),
    (
        "mol_edit",
        "delete",
        f"Remove it. Input Molecule: {ETHYLPHENOL}",
        "",
        {"removed_group": "hydroxyl", "reference": "CCc1ccccc1.O"},
    ),
    ("mol_edit", "add", f"Add something. Input Molecule: {ETHYLPHENOL}", "", {"added_group": "ferrocene"}),
]
RIGHT = {
    "fg_count": '{"count": "1"}',
    "ring_count": "2",
    "murcko_scaffold": '{"Output Scaffold": "C1=CC=CC=C1"}',
    "equivalence": '{"output": "Yes"}',
    "ring_system_scaffold": "no",
    "add": '{"output": "COc1ccc(C(=O)NCCc2ccccc2N(=O)=O)cc1"}',
    "sub": "CCc1ccc(Cl)cc1",
    "logp": '{"Final Target Molecule": "NC(=O)c1cccc(Cl)c1"}',
    "fs": "C(C)OC(=O)C",
}


@pytest.fixture
def benchmark_copy(tmp_path: Path) -> Path:
    files: dict[Path, list[dict[str, str]]] = {}
    for number, (task, part, query, truth, meta) in enumerate(ROWS):
        row = {
            "id": str(number),
            "query": query,
            "gt": truth,
            "task": task,
            "subtask": part,
            "meta": json.dumps(meta),
        }
        files.setdefault(tmp_path / "benchmark" / task / f"{part}.json", []).append(row)
    for file, rows in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows))
    return tmp_path / "benchmark"


def test_a_copy_of_the_benchmark_is_loaded_and_judged(benchmark_copy: Path) -> None:
    task = chemistry(published(benchmark_copy))
    splits = {name: task.split(name) for name in SPLITS}
    examples = {example.meta["part"]: example for split in splits.values() for example in split}
    assert set(examples) == set(RIGHT), (
        "proteins, unknown groups and references that do not solve their own problem are left out"
    )
    for part, answer in RIGHT.items():
        assert value(task, examples[part], answer) == 1, part
        assert value(task, examples[part], '{"output": "CCCC"}') <= 0.1
        assert task.reward(examples[part], answer).value == 0, "not in tags"
    homes = {name: {example.meta["molecule"] for example in split} for name, split in splits.items()}
    assert len(set.union(*homes.values())) == sum(len(molecules) for molecules in homes.values()), (
        "no molecule is in two splits"
    )
    subtasks = [examples[part].meta["subtask"] for part in ("equivalence", "add", "logp", "fs")]
    assert subtasks == ["understanding", "editing", "optimisation", "reaction"]


def test_rows_that_their_reference_does_not_solve_are_counted(
    benchmark_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**vars(published(benchmark_copy)), "unverified": "refuse"}
    with pytest.raises(UserError, match=r"2 of \d+ problems cannot be used:") as caught:
        chemistry(ChemistrySettings(**settings)).split("val")
    assert "its reference 'CCc1ccccc1.O' does not solve it" in str(caught.value)
    assert "its question or answer (add) cannot be read" in str(caught.value)
    assert chemistry(published(benchmark_copy)).split("val")
    assert "2 of 12 problems are left out (task.unverified=skip)" in caplog.text


def test_other_data_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "What?", "answer": "That."}]))
    with pytest.raises(UserError, match=r"needs query, gt, subtask, meta"):
        chemistry(published(tmp_path)).split("val")
    with pytest.raises(UserError, match=r"task\.path=DIRECTORY"):
        chemistry(published(tmp_path / "nothing")).split("val")


def test_a_missing_rdkit_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^task=chem: needs the package rdkit: pip install 'llmzero\[tasks\]'$"
    ):
        chemistry(ChemistrySettings(difficulty="nano"))


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("Q: {{ question }} ({{ example }})")
    example = chemistry(ChemistrySettings(difficulty="full", template=str(template), val_size=2)).split(
        "val"
    )[0]
    assert example.prompt.startswith("Q: ")
    assert "Think step by step" not in example.prompt
