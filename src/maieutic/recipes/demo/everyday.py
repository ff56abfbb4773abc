"""The demo world's everyday dialogues: people who ask for prices in a shop, and people who are bored.

A shop's price list is in the system message and differs between shops. Which goods go together, and what one can do on
a free day, are small tables for the whole world. People stay on a topic, drift from it, or change it.
"""

from __future__ import annotations

from random import Random

from maieutic.core.messages import Message, Role
from maieutic.recipes.demo.students import LEAVES, THANKS

GOODS = ("tea", "cake", "soup", "milk", "bread", "rice", "fish", "juice")
PRICES = range(2, 31)
"""Possible prices."""
_SUITS = {
    "tea": "cake", "cake": "milk", "soup": "bread", "milk": "cake",
    "bread": "soup", "rice": "fish", "fish": "rice", "juice": "cake",
}  # fmt: skip
_PASTIMES = {
    "cook": ("What can i cook", "Soup or fish", "the soup"),
    "read": ("What can i read", "A book on cats or on ships", "the one on ships"),
    "walk": ("Where can i walk", "In the park or by the sea", "the park"),
    "draw": ("What can i draw", "A cat or a ship", "the cat"),
    "play": ("What can i play", "Chess or cards", "chess"),
}
Turns = list[Message]


def _styled(style: str, text: str) -> str:
    """A question in the spelling and manner of a style."""
    if style == "sloppy":
        return text.replace("the ", "teh ").replace("what ", "waht ").removesuffix("?")
    if style == "polite":
        return f"please tell me, {text}"
    return text if style == "chatty" else text.removeprefix("and ")


def shop(random: Random, style: str, facts: list[tuple[str, int]]) -> Turns:
    """A dialogue in a shop; `facts` are the prices that this part of the world may use."""
    goods = random.sample(GOODS, 4)
    price = _prices(random, goods, facts)
    missing = random.choice([good for good in GOODS if good not in goods])
    opens, closes = random.randint(6, 9), random.randint(4, 8)
    listed = ", ".join(f"{good} is {price[good]}" for good in goods)
    turns = [Message(role=Role.SYSTEM, content=f"Shop: {listed}. Open from {opens} to {closes}.")]
    asked = random.sample(goods, random.randint(1, 3))
    greeting = {"chatty": "hi! ", "polite": "hello, ", "terse": "", "sloppy": "hey "}[style]
    for place, good in enumerate(asked):
        before = asked[place - 1] if place else None
        kind = (
            random.choices(("stay", "drift", "shift", "wrong", "gone"), (6, 1.5, 1, 1, 1))[0]
            if place
            else "stay"
        )
        if kind == "drift":
            question, reply = f"what is good with {before}?", f"Try {_SUITS[str(before)]}."
        elif kind == "shift":
            question, reply = random.choice(
                (
                    ("when do you close?", f"We close at {closes}."),
                    ("when do you open?", f"We open at {opens}."),
                )
            )
        elif kind == "wrong":
            question = f"so the {good} is {price[str(before)]} too?"
            reply = f"No, the {good} is {price[good]}. The {before} is {price[str(before)]}."
        elif kind == "gone":
            question, reply = f"do you have {missing}?", f"No, we have no {missing}."
        else:
            question = f"and the {good}?" if place else f"{greeting}how much is the {good}?"
            reply = f"The {good} is {price[good]}."
        _exchange(turns, question if place == 0 else _styled(style, question), reply)
    _exchange(turns, {"polite": "then i take the {}, please.", "terse": "the {} then."}.get(
        style, "ok, i take the {}.").format(asked[0]), f"Here you are, {price[asked[0]]} please.")  # fmt: skip
    return _leave(random, turns, style)


def _prices(random: Random, goods: list[str], facts: list[tuple[str, int]]) -> dict[str, int]:
    price: dict[str, int] = {}
    for good in goods:
        own = [number for thing, number in facts if thing == good and number not in price.values()]
        price[good] = random.choice(own)
    return price


def bored(random: Random, style: str) -> Turns:
    """A dialogue without a system message, which a person begins freely."""
    turns: Turns = []
    can = random.sample(sorted(_PASTIMES), 2)
    opening = {
        "terse": ("i am bored.", "what now?"),
        "chatty": ("hi! i am so bored today, what can i do?", "hello! it is a grey day, what can i do?"),
        "polite": ("hello, please tell me what i can do today.", "please help me, i have a free day."),
        "sloppy": ("im bored", "hey waht can i do"),
    }[style]
    _exchange(turns, random.choice(opening), f"You can {can[0]} or {can[1]}.")
    current = random.choice(can)
    chosen = ""
    for _ in range(random.choice((1, 1, 2))):
        question, reply, choice = _PASTIMES[current]
        _exchange(turns, _styled(style, f"{question.lower()}?"), f"{reply}.")
        chosen = choice
        current = next(other for other in can if other != current)
    if random.random() < 0.25:
        good = random.choice(GOODS)
        _exchange(turns, _styled(style, f"and what is good with {good}?"), f"Try {_SUITS[good]}.")
    _exchange(turns, {"terse": "{}.", "polite": "then i take {}."}.get(style, "ok, {} then.").format(chosen),
              random.choice(("Have fun!", "Good choice.")))  # fmt: skip
    return _leave(random, turns, style)


def _exchange(turns: Turns, question: str, reply: str) -> None:
    turns += [Message(role=Role.USER, content=question), Message(role=Role.ASSISTANT, content=reply)]


def _leave(random: Random, turns: Turns, style: str) -> Turns:
    """A last turn of the person, or none."""
    if random.random() >= LEAVES[style]:
        turns.append(Message(role=Role.USER, content=random.choice(THANKS[style])))
    return turns
