"""Which choice an answer means."""

import pytest

from mmalign.metrics._choices import letter_in, lettered, placed
from mmalign.metrics._letters import bare, chosen, plain
from mmalign.types import Part, UserError

OPTIONS = ["a red cup", "red", "blue", "no cup"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(C)", "C"), ("C.", "C"), ("D) no cup", "D"), ("B: red", "B"),
        ("The answer is (B).", "B"),
        ("The best answer is: C", "C"), ("Answer: D", "D"), ("Option B", "B"), ("C blue", "C"),
        ("blue", "C"), ("Blue.", "C"), ("red", "B"), ("A red cup", "A"),
        ("A red cup on a table", "A"), ("A bird", None), ("I think so", None), ("E", None), ("", None),
        ("A because he runs", "A"), ("A is right", "A"), ("A - red", "A"), ("A \u2014 a red cup", "A"),
        ("A\na red cup", "A"), ("The answer is A because", "A"), ("A matches the picture", "A"),
        ("B because he runs", "B"), ("A is-not-a-word", None), ("A red-hot pan", None), ("A blue cup", None),
        ("A or B", None), ("A -red one", None), ("A \"blue\" cup", None),
        ("Either B or C", None), ("blueish", None), ("no cup at all", "D"),
        # a letter that stands first, whatever is said of others
        ("B because (A) shows no cup", "B"), ("B\n(A) is too dark", "B"), ("B - unlike (A), it fits", "B"),
        ("B: unlike option (C)", "B"), ("C. blue. Not B", "C"), ("B, not A", "B"), ("B and not (A)", "B"),
        ("(B). There is no cup; (A) is wrong", "B"), ("B is right, A is wrong", "B"), ("B, a red one", "B"),
        # what sets an answer apart
        ("**B**", "B"), ("**B. red**", "B"), ("The answer is **B**.", "B"), ("`C`", "C"), ("*C*", "C"),
        ("\\boxed{B}", "B"), ("$\\boxed{\\text{B}}$", "B"), ("(A) is dark.\n<answer>B</answer>", "B"),
        ("<answer> (c) </answer>", "C"), ("\\boxed{A} or \\boxed{B}", None), ("<answer></answer> B", None),
        ("(b)", "B"), ("b", "B"), ("b.", "B"), ("c) blue", "C"), ("[B]", "B"), ('"B"', "B"), ("(B", "B"),
        ("<think>Perhaps (A).</think>\nB", "B"), ("<think>So it is (A), no, wait", None),
        # what the answer is said to be
        ("Both (A) and (B) look right but the answer is (C)", "C"), ("I think it is B", "B"),
        ("Choice B", "B"), ("It's B.", "B"),
        ("He runs. So the correct option is: C", "C"), ("I would choose (b).", "B"),
        ("I think the answer is B", "B"), ("It is a cup. The answer is B, not (A).", "B"),
        ("The answer is A red cup", "A"), ("I think it is A dog", None),
        # behind an explanation
        ("I see red.\n\nB", "B"), ("I see red.\n**B**", "B"), ("I see red.\n- B", "B"), ("- B", "B"),
        ("I see red.\n(b).", "B"), ("I see red.\nB. red", "B"), ("# Answer\nB", "B"),
        ("I see.\nOption C", "C"),
        ("Final answer: b", "B"), ("Final answer: a", "A"), ("the correct choice is a.", "A"),
        ("I see that it is a", None), ("The answer is 'B'.", "B"), ("The answer is \u201cB\u201d", "B"),
        ("The answer is 'B'", "B"), ("the correct choice is b\nIt is red.", "B"),
        ("Therefore option B is correct.", "B"), ("Of all of these, B is the best choice.", "B"),
        ("So A is right because it is red", "A"), ("The best description is B.", "B"),
        ("(A) is not it, so it is dark.\n\nC", "C"),
        ("(A)\nI see red.\nB", None), ("The answer is A.\n\nB", None), ("I see:\nA\nB\nC", None),
        ("These are wrong:\nB", None), ("Therefore option B is not correct.", None),
        ("It is A or B is correct.", None), ("Here (A) and (B) is right.", None),
        ("Tell me if B is correct.", None),
        ("I don't think B is correct.", None), ("Here B is correct. Now C is correct.", None),
        ("Let me see if A is correct. It is not. Answer: B", "B"), ("Here A is correct? No", None),
        ("The cup in B is the best.", None), ("The cup B is right of the table", None),
        ("The answer is a red-hot one", None), ("I see.\nE", None),
        # brackets
        ("Option A is wrong, so (C)", "C"), ("He is not running, so (C)", "C"), ("It must be (C), (C)!", "C"),
        # what is not clear
        ("Not (A) but (B)", None), ("Not (A)", None), ("It cannot be (A)", None), ("(A) is wrong", None),
        ("B is not right", None), ("B isn't it", None), ("(A) and (B)", None), ("B or C", None),
        ("B, C", None), ("B/C", None), ("A and B", None), ("B? No", None), ("The answer is B or C", None),
        ("I don't think the answer is B", None), ("The wrong answer is B", None),
        ("The answer is not (B)", None),
        ("B. The answer is C", None), ("The answer is B. No, the answer is C", None), ("B-movie", None),
        ("blue is not shown", None), ("blue, not red", None), ("It is either (A) or (B)", None),
        # options that are only repeated
        ("A. a red cup\nB. red\nC. blue", None), ("A. a red cup\nB. red\nAnswer: B", "B"),
        ("(A) a red cup\n(B) red\nIt is (B)", "B"), ("B. red\nThe cup has gone", "B"),
    ],
)  # fmt: skip
def test_letters(answer: str, letter: str | None) -> None:
    assert chosen(answer, OPTIONS) == letter


def test_a_letter_with_its_option() -> None:
    assert chosen("A red", ["red", "blue"]) == "A" and chosen("B blue", ["red", "blue"]) == "B"
    assert chosen("A blue", ["red", "blue"]) is None and chosen("A red", ["red", "a red"]) == "B"


def test_options_in_words() -> None:
    assert lettered(OPTIONS[:2]) == "A. a red cup\nB. red"
    assert [bare(one) for one in ("(A) a cup", "B. Bells", "C) C", "A cup")] == [
        "a cup",
        "Bells",
        "C",
        "A cup",
    ]
    assert letter_in("(B) red", 2, "here", "answer") == "B" and plain(" The  Cup. ") == "the cup"
    with pytest.raises(UserError, match="here: answer must be a letter of one of the 2 options, got 'C'"):
        letter_in("C", 2, "here", "answer")
    with pytest.raises(UserError, match="must be a letter"):
        letter_in("Blue", 2, "here", "answer")


def test_places_of_pictures() -> None:
    one, two = Part("image", 1), Part("image", 2)
    assert placed("What?", [one, two], "") == [one, two, "What?"]
    assert placed("<image> or <image>?", [one, two], "") == [one, " or ", two, "?"]
    with pytest.raises(UserError, match="row 3: the question has 1 places for 2 pictures"):
        placed("<image>?", [one, two], "row 3")
