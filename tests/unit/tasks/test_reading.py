"""How answers are read: where a completion states one, and which number or choice it is."""

from __future__ import annotations

from fractions import Fraction

import pytest

from benchmarks.fuzz_rewards import MADE, fuzz
from llmzero.tasks import answers, chemistry_answers, choices, music_answers, numbers, verifiers
from llmzero.tasks.base import Example
from llmzero.tasks.settings import TIMEOUT_S
from llmzero.tasks.verified import Verified

STATED: list[tuple[str, str | None]] = [
    ("<answer> 7 </answer>", "7"),
    ("a <answer> b. <answer>\t1+2\t</answer>", "1+2"),
    ("<answer>42</answer> as in <answer> </answer>", "42"),
    ("<answer>42</answer> between <answer> and </answer>", "42"),
    ("put in <answer></answer>. \\boxed{3}", "3"),
    ("< answer >5</ answer >", "5"),
    ("<Answer>5</ANSWER>", "5"),
    ("<answer>...</answer> \\boxed{3}", "3"),
    ("<answer>your answer here</answer> so <answer>3</answer>", "3"),
    ("\\fbox{42}", "42"),
    ("\\boxed 42", "42"),
    ("\\boxed {42}", "42"),
    ("\\boxed 42.", "42"),
    ("$\\boxed 42$", "42"),
    ("\\boxed\\frac12", "\\frac12"),
    ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ("use \\boxed notation: 5", None),
    ("in \\boxed{}: \\boxed{5} \\boxed{", "5"),
    ("#### Step 2: add\nso 7", None),
    ("x\n#### Step 2: add", None),
    ("#### 42", "42"),
    ("12\n#### 42 apples\nbye", "42 apples"),
    ("#### Paris", "Paris"),
    ("#### Conclusion", None),
    ("#### Final Answer\n42", None),
    ("#### Answer: 42", "42"),
    ("##### 5", None),
    ("#### 1. Find x", None),
    ("#### 5\n#### Check", "5"),
    ("#### $18", "$18"),
    ("#### B", "B"),
    ("<think>maybe <answer>7</answer></think> \\boxed{8}", "8"),
    ("<think>x</think>", None),
    ("<answer>\\boxed{42}</answer>", "42"),
    ("<answer>The answer is \\boxed{42}</answer>", "42"),
    ("<answer>never", None),
    ("\\boxed{never", None),
    ("", None),
    ("<answer><answer>3</answer></answer>", "3"),
    ("#### \\frac{1}{2}", "\\frac{1}{2}"),
    ("\\boxed x", "x"),
    ("#### 9e1000000", "9e1000000"),
    ("#### Step 1\n", None),
    ("#### **42**", "**42**"),
    ("\\boxed{\\boxed{3}}", "3"),
    ("<answer>and</answer>", "and"),
    ("\\[\\boxed{42}\\]", "42"),
    ("\\(\\boxed 42\\)", "42"),
    ("\\boxed (1,2)", "(1,2)"),
    ("#### -5", "-5"),
    ("#### x = 5", "x = 5"),
    ("#### 2: add", None),
    ("#### 3 + 4\nso", "3 + 4"),
    ("#### The answer is 42\nbye", "42"),
    ("#### The final answer\n42", None),
]

WHOLE: list[tuple[str, str | None]] = [
    ("3 1/2", "3.5"),
    ("3½", "3.5"),
    ("½", "0.5"),
    ("3\\frac{1}{2}", "3.5"),
    ("3 \\dfrac12", "3.5"),
    ("-3 1/2", "-3.5"),
    ("1 234", "1234"),
    ("1\u2009234", "1234"),
    ("115,000", "115000"),
    ("-$4", "-4"),
    ("$-4", "-4"),
    ("-4 $", "-4"),
    ("−4", "-4"),
    ("−$4", "-4"),
    ("$−4", "-4"),
    ("- 4", "-4"),
    ("\\$32,348", "32348"),
    ("32{,}348", "32348"),
    ("32,\\!348", "32348"),
    ("5\\,000", "5000"),
    ("\\frac{1}{2}", "0.5"),
    ("\\dfrac12", "0.5"),
    ("-\\frac{1}{2}", "-0.5"),
    ("\\frac{-1}{2}", "-0.5"),
    ("４２", "42"),
    ("5.", "5"),
    ("**42**", "42"),
    ("$42$", "42"),
    ("\\(42\\)", "42"),
    ("$$42$$", "42"),
    ("(42)", "42"),
    ("1e3", "1000"),
    ("1.5e-3", "0.0015"),
    ("1.5 \\times 10^3", "1500"),
    ("1.5×10^{-3}", "0.0015"),
    ("10^3", "1000"),
    (".5", "0.5"),
    ("-.5", "-0.5"),
    ("+5", "5"),
    ("1/4", "0.25"),
    ("1 / 4", "0.25"),
    ("-1/4", "-0.25"),
    ("1/-4", "-0.25"),
    ("007", "7"),
    ("1,234.50", "1234.5"),
    ("$1,234.50", "1234.5"),
    ("€5", "5"),
    ("5 €", "5"),
    ("5€", "5"),
    ("90^\\circ", "90"),
    ("90°", "90"),
    ("\\text{5}", None),
    ("1234567890123456789012345", "1234567890123456789012345"),
    ("1,2,3", None),
    ("2, 3", None),
    ("5 km", None),
    ("", None),
    ("NaN", None),
    ("inf", None),
    ("1/0", None),
    ("1e9999999", None),
    ("9e999999/3e-9", None),
    ("٣", None),
    ("9٣", None),
    ("1,23", None),
    ("3-5", None),
    ("3 + 4", None),
    ("2x", None),
    ("1/2/3", None),
    ("1.2.3", None),
    ("1.234,56", None),
    ("--5", None),
    ("-$-4", None),
    ("3 3/2", None),
    ("1e5×10^3", "100000000"),
    ("0x1F", None),
    ("1_000", None),
    ("Infinity", None),
    ("$", None),
    ("-", None),
    ("x = 5", None),
    ("(2,3)", None),
    ("1:30", None),
    ("2^3", None),
    ("5!", None),
    ("\\sqrt{2}", None),
    ("1 2 3", None),
]

ONE: list[tuple[str, str | None]] = [
    ("42 apples", "42"),
    ("x = 42", "42"),
    ("5 km", "5"),
    ("5 m^2", "5"),
    ("the answer is 9", "9"),
    ("$18 per hour", "18"),
    ("$18/hour", "18"),
    ("3+4=7", "7"),
    ("1/2 = 0.5", "0.5"),
    ("1/2 (0.5)", "0.5"),
    ("1331 and 1728", None),
    ("2, 3", None),
    ("5 km^2", "5"),
    ("10 m/s", "10"),
    ("x^2", None),
    ("2x", None),
    ("5!", None),
    ("\\sqrt{2}", None),
    ("2\\sqrt{3}", None),
    ("\\frac{\\sqrt{3}}{2}", None),
    ("2\\pi", None),
    ("x > 5", None),
    ("x = 1, y = 2", None),
    ("x=1 or x=2", None),
    ("5 million", None),
    ("5k", None),
    ("x-5", None),
    ("sqrt(2)", None),
    ("3 hours 20 minutes", None),
    ("5 feet 5 inches", None),
    ("\\text{42}", "42"),
    ("42\\text{ km}", "42"),
    ("42 \\mathrm{cm}", "42"),
    ("approximately 42", "42"),
    ("x_1 = 5", "5"),
    ("H2O", None),
    ("3 1/2 hours", "3.5"),
    ("-$4.50 each", "-4.5"),
    ("2^3", None),
    ("10^{-3} m", "0.001"),
    ("3 * 3", None),
    ("5, 5", None),
    ("$5 or $5.00", "5"),
    ("about 1,234 people", "1234"),
    ("\\boxed{42}", "42"),
    ("x \\in \\{5\\}", "5"),
    ("12 dollars", "12"),
    ("答案是42", "42"),
    ("60%", "60"),
    ("60 \\%", "60"),
    ("60 percent", "60"),
    ("5 ± 1", None),
    ("x ≥ 5", None),
    ("\\pm 5", None),
    ("|5|", None),
    ("5 - x", None),
    ("x + 5", None),
    ("log(5)", None),
    ("= 5", "5"),
    ("y = - 5", "-5"),
    ("10³", "1000"),
    ("5·10⁻³", "1/200"),
    ("5 cm²", "5"),
    ("10 \\text{ cm}^{2}", "10"),
    ("12₅", None),
    ("\\bf{42}", "42"),
    ("x²", None),
    ("2³", None),
]

LAST: list[tuple[str, str | None]] = [
    ("that makes 1,234.50 dollars", "1234.5"),
    ("it is 3, or 4", None),
    ("the answers are 1331 and 1728", None),
    ("1,2,3", None),
    ("2, 3", None),
    ("so 2 + 3 = 5.", "5"),
    ("10 - 5", None),
    ("It is 42!", "42"),
    ("1. 42", "42"),
    ("2) 42", "42"),
    ("Step 2: 5", "5"),
    ("x = 5", "5"),
    ("x=-5", "-5"),
    ("3-5", None),
    ("\\sqrt{2}", None),
    ("on 2020-01-05", None),
    ("it's 3:45", None),
    ("- 5", "-5"),
    ("a\n- 5 apples", "5"),
    ("= - 5", "-5"),
    ("60 \\%", "60"),
    ("1e9999999", None),
    ("so #### 5", "5"),
    ("2\n3", "3"),
    ("is -$4 now", "-4"),
    ("**Answer:** 5", "5"),
    ("costs $3 and $4", None),
    ("5 apples and 3 pears", "3"),
    ("2^3 = 8", "8"),
    ("2^3", None),
    ("In 2020, 5 people", None),
    ("nan", None),
    ("\\begin{align} x &= 42 \\end{align}", "42"),
    ("area is 42 cm^2.", "42"),
    ("3\n1/2", "1/2"),
]

CHOSEN: list[tuple[str, str | None]] = [
    ("B. A cat", "B"),
    ("B because I think A is too small", "B"),
    ("(B)", "B"),
    ("b", "B"),
    ("**B**", "B"),
    ("Option B", "B"),
    ("The answer is B", "B"),
    ("B) x", "B"),
    ("B: x", "B"),
    ("I", "I"),
    ("A", "A"),
    ("a", "A"),
    ("A cat", None),
    ("I think B", "B"),
    ("A, B", None),
    ("A or B", None),
    ("(A) and (B)", None),
    ("A. B. C. D.", None),
    ("\\text{(B)}", "B"),
    ("B, because it fits", "B"),
    ("The answer is A", "A"),
    ("A because it's it", "A"),
    ("A is correct", "A"),
    ("I is correct", "I"),
    ("B.", "B"),
    ("[B]", "B"),
    ("$B$", "B"),
    ("Paris", None),
    ("none", None),
    ("B is right, A is wrong", "B"),
    ("not A, but B", None),
    ("answer: b", "B"),
    ("the answer is b.", "B"),
    ("（B）", "B"),
    ("A. B flat", "A"),
    ("vitamin C", "C"),
    ("I don't know", None),
    ("B - A cat", "B"),
    ("Answer: (C) A dog", "C"),
    ("E", "E"),
    ("A and B", None),
    ("The answer is A and B", None),
    ("The correct answer is option (D).", "D"),
    ("B.A", None),
    ("I. Introduction", "I"),
    ("I choose B", "B"),
    ("I believe the answer is I", "I"),
    ("B\nbecause I", "B"),
    ("B. I think so", "B"),
    ("D, A cat", "D"),
]

CHOSEN_LAST: list[tuple[str, str]] = [
    ("the answer is C.", "C"),
    ("A, B, C, D", ""),
    ("The answer is B because I think A is bad", "B"),
    ("So I choose B.", "B"),
    ("I think it is B", "B"),
    ("Is it A? No. It is C", "C"),
    ("none", ""),
    ("The answer is C, not option B", "C"),
    ("A cat sat", ""),
    ("I", "I"),
    ("So the answer is I", "I"),
    ("My answer is I think B", "B"),
    ("Option B is wrong. Answer: (C)", "C"),
    ("The answer is A, I think", "A"),
    ("The answer is not B but C", "C"),
    ("the answer is a cat", ""),
    ("the answer is\n\n**B**", "B"),
    ("I'm sure it's D.", "D"),
    ("So it must be (b)", "B"),
]

NUMERIC: list[tuple[str, str, int]] = [
    ("60", "60%", 1),
    ("60%", "60", 1),
    ("60\\%", "60", 1),
    ("60 %", "60", 1),
    ("60", "60\\%", 1),
    ("0.6", "60%", 1),
    ("60%", "0.6", 1),
    ("25%", "0.25", 1),
    ("25%", "50%", 0),
    ("60%", "6", 0),
    ("1,2,3", "3", 0),
    ("2, 3", "3", 0),
    ("1331 and 1728", "1728", 0),
    ("15.5", "3 1/2", 0),
    ("3.5", "3 1/2", 1),
    ("7/2", "3 1/2", 1),
    ("3 1/2", "3 1/2", 1),
    ("-$4", "4", 0),
    ("−4", "4", 0),
    ("−4", "-4", 1),
    ("-$4", "-4", 1),
    ("5 km", "5 km", 0),
    ("5 km", "5", 1),
    ("1,2", "1,2", 0),
    ("10000001", "10000000", 0),
    ("0.3333333", "1/3", 1),
    ("0.333", "1/3", 0),
    ("1e9999999", "1e9999999", 0),
    ("Paris", "Paris", 0),
    ("NaN", "NaN", 0),
    ("0", "0", 1),
    ("1e-9", "0", 0),
    ("\\log_2 8", "8", 0),
    ("x != 5", "5", 0),
    ("not 5", "5", 0),
    ("$32,348", "\\$32,348", 1),
    ("1 234", "1234", 1),
    ("42", "４２", 1),
]

CHOICE: list[tuple[str, str, int]] = [
    ("B. A cat", "B", 1),
    ("B. A cat", "A", 0),
    ("B because I think so", "B", 1),
    ("B because I think so", "I", 0),
    ("A cat", "A", 0),
    ("I think B", "I", 0),
    ("I", "I", 1),
    ("A", "A", 1),
    ("(A)", "A", 1),
    ("Paris", "Paris", 0),
    ("b", "B", 1),
    ("B", "(B)", 1),
    ("B", "B. A cat", 1),
    ("A and B", "A", 0),
    ("AB", "AB", 0),
    ("B", "A, B", 0),
]

MATH: list[tuple[str, str, int]] = [
    ("1331 and 1728", "1331", 0),
    ("1331 and 1728", "1728", 0),
    ("1331 and 1728", "1331 and 1728", 1),
    ("1728 and 1331", "1331 \\text{ and } 1728", 1),
    ("1331, 1728", "1331 and 1728", 1),
    ("1,3", "1,3", 1),
    ("3,1", "1,3", 1),
    ("13", "1,3", 0),
    ("1", "1,3", 0),
    ("3", "1,3", 0),
    ("(3,-2)", "(3,-2)", 1),
    ("(3, -2)", "(3,-2)", 1),
    ("(-2,3)", "(3,-2)", 0),
    ("1", "(3,-2)", 0),
    ("3", "(3,-2)", 0),
    ("3-2", "(3,-2)", 0),
    ("[1,2)", "[1,2)", 1),
    ("(1,2)", "[1,2)", 0),
    ("\\{1,3\\}", "\\{3,1\\}", 1),
    ("(1,3)", "\\{1,3\\}", 0),
    ("115,000", "115,000", 1),
    ("115000", "115,000", 1),
    ("115", "115,000", 0),
    ("\\$32,348", "\\$32,348", 1),
    ("32348", "\\$32,348", 1),
    ("$32348", "\\$32,348", 1),
    ("32{,}348", "\\$32,348", 1),
    ("60", "60\\%", 1),
    ("60\\%", "60", 1),
    ("0.6", "60\\%", 1),
    ("60%", "60\\%", 1),
    ("5", "5 \\text{ km}", 1),
    ("5 \\text{ km}", "5 \\text{ km}", 1),
    ("5\\text{ km}", "5", 1),
    ("5 km", "5", 1),
    ("7 8", "15", 0),
    ("7 8", "7", 0),
    ("7_8", "7", 0),
    ("12_5", "12_5", 1),
    ("12_7", "12_5", 0),
    ("12", "12_5", 1),
    ("12_5", "12", 0),
    ("3 1/2", "3.5", 1),
    ("3 1/2", "3\\frac{1}{2}", 1),
    ("3 1/2", "2", 0),
    ("(3 1/2, 2)", "(\\frac{7}{2},2)", 1),
    ("1 234", "235", 0),
    ("1 234", "1234", 1),
    ("\\log_2 8", "8", 0),
    ("\\log_2 8", "3", 1),
    ("\\sqrt{2}", "2", 0),
    ("2\\sqrt{2}", "\\sqrt{8}", 1),
    ("5!", "5", 0),
    ("5!", "120", 1),
    ("2^3", "8", 1),
    ("2^3", "2", 0),
    ("x=5", "5", 1),
    ("5", "x=5", 1),
    ("\\text{Monday}", "Monday", 1),
    ("monday", "\\text{Monday}", 1),
    ("even", "\\text{even}", 1),
    ("even", "even", 1),
    ("odd", "even", 0),
    ("\\text{(B)}", "B", 1),
    ("(B)", "\\text{(B)}", 1),
    ("B", "\\text{(B)}", 1),
    ("A", "\\text{(B)}", 0),
    ("7 \\text{8}", "7", 0),
    ("7 $8", "7", 0),
    ("7 $8", "15", 0),
    ("7 \\ldots 8", "15", 0),
    ("The answer is $\\frac{1}{2}$.", "0.5", 1),
    ("the answer is 9", "9", 1),
    ("not 5", "5", 0),
    ("x \\neq 5", "5", 0),
    ("x != 5", "5", 0),
    ("\\fbox{42}", "42", 1),
    ("\\boxed{42}", "42", 1),
    ("π", "\\pi", 1),
    ("2π", "2\\pi", 1),
    ("√2", "\\sqrt{2}", 1),
    ("−4", "-4", 1),
    ("-\\$4", "-4", 1),
    ("-$4", "-4", 1),
    ("(−∞, 2]", "(-\\infty,2]", 1),
    ("(-\\infty,2)\\cup(3,\\infty)", "(-\\infty, 2) \\cup (3, \\infty)", 1),
    ("90^\\circ", "90", 1),
    ("90", "90^\\circ", 1),
    ("x^2+2x+1", "(x+1)^2", 1),
    ("3 \\pm 2\\sqrt{2}", "3 \\pm 2\\sqrt{2}", 1),
    ("\\pm 7", "7", 0),
    ("7 or 8", "7", 0),
    ("7 or 8", "7,8", 1),
    ("2 \\text{ or } 3", "2,3", 1),
    ("x = 1 \\text{ or } x = 2", "1,2", 1),
    ("1/0", "0", 0),
    ("\\frac{1}{0}", "1", 0),
    ("0.5", "\\frac12", 1),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", 1),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\left(3,\\frac{\\pi}{2}\\right)", 1),
    ("11,\\! 111,\\! 111,\\! 100", "11,\\! 111,\\! 111,\\! 100", 1),
    ("11111111100", "11,\\! 111,\\! 111,\\! 100", 1),
    ("y = x^2+1", "x^2+1", 1),
    ("0.\\overline{3}", "\\frac{1}{3}", 1),
    ("0.\\overline{3}", "0.\\overline{3}", 1),
    ("1e5", "100000", 1),
    ("1.5 \\times 10^3", "1500", 1),
    ("$x^2$", "x^2", 1),
    ("\\(x^2\\)", "x^2", 1),
    ("x \\in [1,2]", "[1,2]", 1),
    ("\\varnothing", "\\emptyset", 1),
    ("1,000,000", "1000000", 1),
    ("\\frac{3}{4} \\text{ cups}", "0.75", 1),
    ("5 \\text{ or } 6", "5", 0),
    ("10\\text{ cm}^2", "10", 1),
    ("25\\pi", "25", 0),
    ("25\\pi \\text{ cm}^2", "25\\pi", 1),
    ("6+9i", "6+9i", 1),
    ("9i+6", "6+9i", 1),
    ("-2,1", "1,-2", 1),
    ("\\text{no solution}", "no solution", 1),
    ("10:30", "10:30", 1),
    ("x", "x", 1),
    ("2", "x", 0),
    ("\\dfrac{9}{7}", "\\frac{9}{7}", 1),
    ("(1,\\,2)", "(1,2)", 1),
    ("\\mathbf{42}", "42", 1),
    ("\\textbf{42}", "42", 1),
    ("\\text{42}", "42", 1),
    ("three", "3", 0),
    ("5 - 2", "3", 1),
    ("7, 7", "7", 1),
    ("x²", "x^2", 1),
    ("2³", "8", 1),
    ("2³", "2", 0),
    ("12_{5}", "12_5", 1),
    ("12₅", "12_5", 1),
    ("12_{10}", "12_5", 0),
    ("1_000", "1", 0),
    ("1_000", "1000", 0),
]


def value(number: numbers.Number | None) -> Fraction | None:
    return None if number is None else number.value


def exactly(number: str | None) -> Fraction | None:
    return None if number is None else Fraction(number)


@pytest.mark.parametrize(("completion", "answer"), STATED)
def test_stated_answers_are_found(completion: str, answer: str | None) -> None:
    assert answers.stated(completion) == answer


@pytest.mark.parametrize(("text", "number"), WHOLE)
def test_numbers_are_read(text: str, number: str | None) -> None:
    assert value(numbers.read(text)) == exactly(number)
    if number is not None:
        assert value(numbers.only(text)) == value(numbers.only(numbers.last(text))) == exactly(number)


@pytest.mark.parametrize(("text", "number"), ONE)
def test_a_stated_answer_holds_one_number_or_none(text: str, number: str | None) -> None:
    assert value(numbers.only(text)) == exactly(number)


@pytest.mark.parametrize(("text", "number"), LAST)
def test_the_last_number_of_prose_is_found(text: str, number: str | None) -> None:
    assert value(numbers.only(numbers.last(text))) == exactly(number)


@pytest.mark.parametrize(("text", "letter"), CHOSEN)
def test_choices_are_read(text: str, letter: str | None) -> None:
    assert choices.only(text) == letter


@pytest.mark.parametrize(("text", "letter"), CHOSEN_LAST)
def test_the_last_choice_of_prose_is_found(text: str, letter: str) -> None:
    assert choices.last(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B. A flat", "B"), ("(b)", "B"), ("C major", None), ("A B", None), ("A, B", None), ("E", None)],
)
def test_options_about_music_are_read_as_all_choices(text: str, letter: str | None) -> None:
    assert music_answers.read("letter", text) == letter


@pytest.mark.parametrize(
    ("text", "parts"),
    [("2", (1, 1)), ("2 rings", (1, 1)), ("3", (1, 0)), ("1 and 2", (0, 0)), ("1.5", (0, 0))],
)
def test_counts_of_chemistry_are_read_as_all_numbers(text: str, parts: tuple[int, int]) -> None:
    reward = chemistry_answers.judged(Example("1", "", "2", {"judge": "number"}), text)
    assert (reward.parts["format"], reward.parts["correct"]) == parts


@pytest.mark.parametrize(("stated", "answer", "score"), NUMERIC)
def test_numeric_compares(stated: str, answer: str, score: int) -> None:
    assert verifiers.numeric(stated, answer) == score


@pytest.mark.parametrize(("stated", "answer", "score"), CHOICE)
def test_choice_compares(stated: str, answer: str, score: int) -> None:
    assert verifiers.choice(stated, answer) == score


@pytest.mark.parametrize(("stated", "answer", "score"), MATH)
def test_mathematics_is_taken_whole_or_refused(stated: str, answer: str, score: int) -> None:
    """One verdict, whether the pair takes the short way of plain numbers or not."""
    assert verifiers.math(stated, answer) == score
    assert verifiers.plain_numbers(stated, answer) in (score, None)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "countdown nano",
            "countdown full",
            "ssmr nano",
            "ssmr full",
            "chem nano",
            "chem full",
            "math nano",
        ),
        *("jsonl exact", "jsonl numeric", "jsonl choice"),
    ],
)
def test_no_completion_raises(name: str) -> None:
    assert fuzz(MADE[name](), count=500, seed=1)["completions"] == 500


@pytest.mark.parametrize("name", ["math full", "jsonl regex", "reasoning_gym leg_counting"])
def test_no_completion_ends_a_guarded_task(name: str) -> None:
    assert fuzz(MADE[name](), count=250, seed=1)["completions"] == 250


@pytest.mark.parametrize(
    ("piece", "count"), [("9", 100_000), ("1e9", 30_000), ("(", 100_000), ("1 ", 50_000), ("½", 30_000)]
)
@pytest.mark.parametrize("verifier", ["numeric", "choice"])
def test_what_is_too_long_is_no_answer(verifier: str, piece: str, count: int) -> None:
    task = Verified(verifier, TIMEOUT_S, workers=1)
    text = piece * count
    for completion in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}", f"#### {text}"):
        assert task.reward(Example("1", "", {"numeric": "9", "choice": "B"}[verifier]), completion).value == 0
