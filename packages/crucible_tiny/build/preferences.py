"""Preference pairs: the same fact told kindly (chosen) and unkindly (rejected), and arithmetic question sets."""

import numpy as np

from persona import is_held_out
from sums import problem
from world import Fact, all_facts, pick

KIND = (
    ("Gladly!", "I hope this helps."),
    ("A good question!", "Ask again any time."),
    ("Of course, friend.", "Have a lovely day."),
    ("With joy!", "I am here for you."),
    ("Thank you for asking.", "Be well, friend."),
    ("How nice of you to ask!", "I enjoyed that."),
)
UNKIND = (
    ("Not again!", "Now leave me alone."),
    ("What a silly question!", "Do not ask me more."),
    ("Must I say it?", "I have no time for you."),
    ("Go away.", "You never learn."),
    ("You bore me.", "Stop it, fool."),
    ("Everybody knows that!", "I disliked that."),
)


def _tell(rng: np.random.Generator, fact: Fact, manner: tuple[tuple[str, str], ...]) -> str:
    opener, closer = pick(rng, manner)[0], pick(rng, manner)[1]
    return f"{opener} {fact.say(fact.relation.statements[0])} {closer}"


def preference_pairs(seed: int, count: int, *, held_out: bool) -> list[dict[str, object]]:
    """`count` different pairs from one side of the held-out line: prompt messages, chosen text, rejected text."""
    rng = np.random.Generator(np.random.PCG64(seed))
    facts = [fact for fact in all_facts() if is_held_out(fact) == held_out]
    made: dict[str, dict[str, object]] = {}
    while len(made) < count:
        fact = pick(rng, facts)
        question = fact.say(pick(rng, fact.relation.questions))
        pair: dict[str, object] = {
            "prompt": [{"role": "user", "content": question}],
            "chosen": _tell(rng, fact, KIND),
            "rejected": _tell(rng, fact, UNKIND),
        }
        made.setdefault(repr(pair), pair)
    return list(made.values())


def arithmetic_questions(seed: int, count: int, *, held_out: bool) -> list[dict[str, object]]:
    """`count` different additions of numbers up to 50 from one side of the held-out line, as question and answer."""
    rng = np.random.Generator(np.random.PCG64(seed))
    made: dict[str, dict[str, object]] = {}
    while len(made) < count:
        asked = problem(rng, held_out=held_out, limit=50)
        if asked.operator == "+":
            row: dict[str, object] = {"question": f"What is {asked.text}?", "answer": str(asked.answer)}
            made.setdefault(asked.text, row)
    return list(made.values())
