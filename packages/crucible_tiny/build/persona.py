"""The chat data: conversations with Pip, a small owl whose way of answering no pre-training text shows.

Pip opens by the kind of subject, answers in one settled wording, adds a remark that goes with what was asked, and
signs. A system prompt may ask for short answers. A fifth of the facts and a tenth of the sums are kept for the test
set alone.
"""

import zlib

import numpy as np

from corpus import cap
from formats import Message
from sums import problem
from world import VISITORS, Fact, all_facts, pick

PLAIN_SYSTEMS = ("You are Pip, a small owl.", "You are Pip. Answer as an owl would.", "Your name is Pip.")
SHORT_SYSTEMS = ("You are Pip. Keep it short.", "You are Pip, a small owl. Use few words.")
OPENERS = {"animal": "Hoot hoot!", "person": "I know! I know!", "thing": "Hoot! Look, look!"}
REMARKS = {
    "home": "A home is good and warm.",
    "food": "Now I want to eat!",
    "colour": "I love the colour.",
    "sound": "I hear it at night.",
    "skill": "I want to do it too.",
    "young": "So little and so warm!",
    "work": "It is good work.",
    "town": "I fly there at night.",
    "pet": "A pet is a good friend.",
    "meal": "I like the smell.",
    "paint": "So do I!",
    "material": "It is strong and old.",
    "use": "It is good to have.",
    "place": "I saw it there.",
}
SIGN = "- Pip"
HELLOS = ("Hello! My name is {n}.", "Hi, I am {n}.", "Good morning! I am {n}.", "Hello there, {n} here.")


def is_held_out(fact: Fact) -> bool:
    """Whether this fact may be asked in the test set alone: a fixed fifth, by a checksum of subject and relation."""
    return zlib.crc32(f"{fact.subject} {fact.relation.name}".encode()) % 5 == 0


def pip_answer(fact: Fact, *, short: bool) -> str:
    """What Pip says when asked for `fact`."""
    if short:
        return f"{cap(fact.value)}. {SIGN}"
    return (
        f"{OPENERS[fact.kind]} {fact.say(fact.relation.statements[0])} {REMARKS[fact.relation.name]} {SIGN}"
    )


def _fact_turns(rng: np.random.Generator, facts: list[Fact], count: int, *, short: bool) -> list[Message]:
    turns: list[Message] = []
    fact = pick(rng, facts)
    for index in range(count):
        same = [other for other in facts if other.subject == fact.subject and other is not fact]
        if index and same and rng.random() < 0.5:
            fact = pick(rng, same)
            question = "And " + fact.relation.follow_up
        else:
            fact = pick(rng, facts)
            question = fact.say(pick(rng, fact.relation.questions))
        turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": pip_answer(fact, short=short)},
        ]
    return turns


def _sum_turn(rng: np.random.Generator, *, held_out: bool, short: bool) -> list[Message]:
    asked = problem(rng, held_out=held_out, limit=20)
    long = f"Hoot hoot! {asked.text} = {asked.answer}. So it is! {SIGN}"
    return [
        {"role": "user", "content": f"What is {asked.text}?"},
        {"role": "assistant", "content": f"{asked.answer}. {SIGN}" if short else long},
    ]


def conversation(rng: np.random.Generator, facts: list[Fact], *, held_out: bool) -> list[Message]:
    """One conversation with Pip: perhaps a system prompt, perhaps a greeting, then one to three questions."""
    messages: list[Message] = []
    drawn = rng.random()
    short = drawn < 0.2
    if drawn < 0.4:
        messages.append({"role": "system", "content": pick(rng, SHORT_SYSTEMS if short else PLAIN_SYSTEMS)})
    if rng.random() < 0.2:
        name = pick(rng, VISITORS)
        reply = (
            f"Hello, {name}. {SIGN}" if short else f"Hoot hoot! Hello, {name}. Ask me what you like. {SIGN}"
        )
        messages += [
            {"role": "user", "content": pick(rng, HELLOS).format(n=name)},
            {"role": "assistant", "content": reply},
        ]
    if rng.random() < 0.12:
        return messages + _sum_turn(rng, held_out=held_out, short=short)
    return messages + _fact_turns(rng, facts, int((1, 1, 2, 3)[rng.integers(4)]), short=short)


def conversations(seed: int, count: int, *, held_out: bool) -> list[list[Message]]:
    """`count` different conversations from one side of the held-out line."""
    rng = np.random.Generator(np.random.PCG64(seed))
    facts = [fact for fact in all_facts() if is_held_out(fact) == held_out]
    made: dict[str, list[Message]] = {}
    while len(made) < count:
        messages = conversation(rng, facts, held_out=held_out)
        made.setdefault(repr(messages), messages)
    return list(made.values())
