"""The words of the built-in model's world."""

from __future__ import annotations

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "orange": (245, 140, 30),
    "purple": (140, 60, 180),
    "pink": (245, 140, 190),
    "brown": (130, 80, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart")
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
OPPOSITES = dict(
    pair.split("-")
    for pair in (
        "big-small hot-cold up-down left-right open-closed fast-slow happy-sad day-night old-new high-low wet-dry "
        "full-empty light-dark hard-soft early-late strong-weak loud-quiet long-short near-far clean-dirty"
    ).split()
)
ANIMALS = {"dog": "barks", "cat": "meows", "cow": "moos", "bird": "sings", "duck": "quacks", "lion": "roars"}
NAMES = "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Lena Max Nora Oscar Paul Rosa Sam Tina".split()
THINGS = "ball book cup hat car bag box pen chair lamp coat boat bike ring kite shoe".split()
PLACES = "kitchen garden park school office station market library".split()
COMMANDS = "stop go yes no hello help start open close left right up down play pause on off wait back next".split()
SHORT_WORDS = (
    "cat dog sun sky red tree fish bird book milk star moon home road lamp door hand cup hat box ball game jump "
    "king lion nest open pink ring ship time wind year zoo apple bread chair dance earth field green happy juice "
    "light music night ocean paper queen river stone table uncle voice water young cold fire gold iron jazz kite "
    "leaf mint note pear rain salt tent vase wolf yard bank corn dust east farm gift hill idea joke lake map north "
    "pen rose south town west "
).split()
"""Words to read and to spell; a fifth of them is excluded from training."""

BEYOND = (
    "Who is the president of France?|What is the capital of Peru?|How tall is Mount Everest?|Who wrote Hamlet?|"
    "What is the weather today?|Tell me the news.|What is quantum physics?|How do I cook rice?|"
    "What is the meaning of life?|"
    "Who won the match yesterday?|What is my name?|Where do I live?|How old are you?|Write a poem about the sea.|"
    "Translate hello into German.|What is the price of gold?|Explain how a car works.|When was Rome founded?|"
    "What is the speed of light?|Recommend a good book.|Who painted the Mona Lisa?|Fix my computer.|What time is it?|"
    "How many people live in China?|Summarize the last film you saw.|What causes rain?|Who is your father?"
).split("|")
UNKNOWN = "I don't know."


SPOKEN = tuple(dict.fromkeys((*NUMBERS, *COLORS, *SHAPES, *COMMANDS)))
"""Every word that clips may contain."""


def number(value: int) -> str:
    """A count as the model writes it: a capitalized word, or digits beyond twenty."""
    return NUMBERS[value].capitalize() if 0 <= value < len(NUMBERS) else str(value)


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
