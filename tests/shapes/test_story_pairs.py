"""How a preference pair is picked from the samples of one prompt."""

from mmalign.shapes.story_pairs import best_and_worst

PROMPT = "Tell a short story about a red star at the lake."


OPENING = "It is a {} day at the lake, and"


def story(day: str, mood: str, song: str, opening: str = OPENING) -> str:
    return (
        f"{opening.format(day)} the red star wakes up. The red star feels {mood} today. "
        f"First the red star sings a {song} song. So the red star makes a fire at the lake."
    )


WARM = story("sunny", "happy", "merry")  # tone 3
PLAIN = story("cool", "busy", "long")  # tone 0
MIXED = story("sunny", "sad", "merry")  # tone 1
GLOOMY = story("dark", "sad", "bitter")  # tone -3


def test_the_extremes_are_taken() -> None:
    assert best_and_worst(PROMPT, [PLAIN, GLOOMY, WARM, MIXED]) == (WARM, GLOOMY)


def test_a_small_gap_makes_no_pair() -> None:
    assert best_and_worst(PROMPT, [PLAIN, MIXED, PLAIN]) is None
    assert best_and_worst(PROMPT, [WARM]) is None
    assert best_and_worst(PROMPT, []) is None


def test_invalid_stories_take_no_part() -> None:
    broken = WARM.replace("fire at the lake", "fire at the beach")
    assert best_and_worst(PROMPT, [broken, GLOOMY, PLAIN]) == (PLAIN, GLOOMY)


def test_among_equal_tones_the_closest_lengths_are_taken() -> None:
    # "It is a golden day at the lake, and" has one word more than "A golden day begins at the lake, and".
    shorter = story("golden", "happy", "merry", opening="A {} day begins at the lake, and")
    assert len(WARM.split()) == len(shorter.split()) + 1 == len(GLOOMY.split())
    assert best_and_worst(PROMPT, [shorter, WARM, GLOOMY]) == (WARM, GLOOMY)
