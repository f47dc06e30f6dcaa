"""The tiny world: who lives in it and what is true of them. Tables only; every text the build makes comes from here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

ANIMALS = """
fox|in the forest|berries|red|yips|dig deep holes|cub
bear|in a cave|honey|brown|growls|climb tall trees|cub
frog|by the pond|flies|green|croaks|jump very far|tadpole
duck|by the lake|bread|white|quacks|swim all day|duckling
cow|in the meadow|grass|black|moos|carry heavy loads|calf
horse|in the stable|hay|brown|neighs|run very fast|foal
mouse|under the floor|cheese|grey|squeaks|hide in small places|pup
cat|in the cottage|fish|orange|meows|see in the dark|kitten
dog|in the yard|bones|white|barks|find lost things|puppy
sheep|on the hill|clover|white|bleats|follow a path|lamb
goat|on the mountain|leaves|grey|bleats|climb steep rocks|kid
pig|on the farm|corn|pink|oinks|roll in the mud|piglet
hen|in the barn|seeds|red|clucks|wake up early|chick
rooster|on the fence|seeds|golden|crows|wake the village|chick
crow|in the old oak|nuts|black|caws|remember faces|chick
dove|on the roof|crumbs|white|coos|carry letters|chick
bee|in the hive|nectar|yellow|buzzes|dance in the air|grub
ant|in the sand|crumbs|black|clicks|build long tunnels|grub
snake|in the tall grass|eggs|green|hisses|slide without a sound|snakelet
turtle|on the beach|seaweed|green|grunts|live very long|hatchling
whale|in the sea|krill|blue|sings|dive very deep|calf
seal|on the ice|fish|grey|barks|slide on its belly|pup
wolf|in the valley|meat|grey|howls|follow a smell|pup
lion|on the plain|meat|golden|roars|scare its enemies|cub
tiger|in the jungle|meat|orange|roars|hunt at night|cub
monkey|in the jungle|bananas|brown|chatters|swing from trees|infant
parrot|in the palm tree|nuts|green|squawks|copy voices|chick
camel|in the desert|dry leaves|brown|grunts|walk without water|calf
elephant|on the plain|fruit|grey|trumpets|lift heavy logs|calf
rabbit|in the garden|carrots|white|thumps|hear far sounds|kit
squirrel|in the old oak|acorns|red|chatters|leap between trees|kit
hedgehog|under the hedge|worms|brown|snuffles|curl into a ball|hoglet
badger|in the valley|worms|black|growls|dig deep holes|kit
otter|by the river|fish|brown|whistles|swim on its back|pup
beaver|by the river|bark|brown|slaps its tail|build dams|kit
swan|by the lake|weeds|white|honks|glide on the water|cygnet
goose|on the farm|grass|grey|honks|guard the gate|gosling
donkey|in the stable|oats|grey|brays|carry heavy loads|foal
deer|in the forest|leaves|brown|snorts|run very fast|fawn
bat|in a cave|moths|black|squeaks|fly in the dark|pup
crab|on the beach|shells|red|clicks|walk sideways|larva
penguin|on the ice|krill|black|honks|swim under the ice|chick
"""

PEOPLE = """
Anna|a baker|Milltown|a cat|plums|blue
Ben|a farmer|Greenhill|a dog|soup|green
Clara|a doctor|Riverside|a parrot|bread|white
David|a teacher|Oakwood|a turtle|apples|red
Ella|a painter|Seaport|a rabbit|cherries|yellow
Felix|a sailor|Seaport|a mouse|fish|blue
Grace|a singer|Milltown|a dove|honey|golden
Henry|a miller|Greenhill|a goat|pie|brown
Iris|a gardener|Oakwood|a hedgehog|carrots|purple
Jack|a carpenter|Stonebridge|a dog|cheese|grey
Karen|a weaver|Stonebridge|a sheep|pears|purple
Leo|a cook|Riverside|a hen|pancakes|orange
Mary|a nurse|Milltown|a rabbit|soup|pink
Noah|a fisherman|Seaport|a duck|rice|green
Olive|a librarian|Oakwood|a cat|grapes|black
Peter|a potter|Greenhill|a pig|beans|brown
Quinn|a pilot|Stonebridge|a crow|noodles|white
Rose|a tailor|Riverside|a swan|plums|pink
Sam|a shepherd|Greenhill|a sheep|cheese|green
Tara|a dancer|Milltown|a fox|cherries|red
Victor|a baker|Stonebridge|a donkey|pie|yellow
Wendy|a teacher|Seaport|a turtle|pears|blue
Yusuf|a doctor|Oakwood|a horse|rice|golden
Zoe|a painter|Riverside|a frog|grapes|orange
"""

THINGS = """
kettle|copper|boil water|in the kitchen
lamp|brass|light the room|on the table
ladder|wood|reach high places|in the shed
blanket|wool|keep warm|on the bed
basket|straw|carry fruit|by the door
hammer|iron|drive nails|in the shed
spoon|silver|stir soup|in the drawer
cup|clay|drink tea|on the shelf
bell|bronze|call people|in the tower
boat|wood|cross the river|at the dock
rope|hemp|tie the boat|at the dock
mirror|glass|see your face|on the wall
scarf|wool|warm your neck|in the wardrobe
knife|steel|cut bread|in the drawer
broom|straw|sweep the floor|in the kitchen
bucket|tin|carry water|by the well
clock|brass|tell the time|on the wall
drum|leather|make music|in the attic
kite|paper|play in the wind|in the attic
book|paper|learn new things|on the shelf
key|iron|open the gate|on the hook
pillow|cotton|rest your head|on the bed
umbrella|silk|stay dry|by the door
bowl|clay|hold porridge|on the table
"""

VISITORS = (
    "Lily",
    "Tom",
    "Max",
    "Mia",
    "Emma",
    "Jake",
    "Ruby",
    "Hugo",
    "Nina",
    "Oscar",
    "Alice",
    "Paul",
    "Sara",
    "Luke",
    "Maya",
    "Finn",
    "Julia",
    "Carl",
    "Eva",
    "Rob",
    "Kate",
    "Dan",
    "Lena",
    "Joe",
    "Amy",
    "Theo",
    "Vera",
    "Will",
    "Nora",
    "Gus",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One thing that can be asked of an entity: its name, how it is stated (`{x}`, `{v}`), asked, and asked further."""

    name: str
    column: int
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    follow_up: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One true value of one relation of one entity. `subject` is how the entity is written inside a sentence."""

    kind: str
    subject: str
    relation: Relation
    value: str

    def say(self, form: str) -> str:
        """`form` with subject and value filled in, its first letter a capital."""
        text = form.format(x=self.subject, v=self.value)
        return text[0].upper() + text[1:]


def _relation(name: str, column: int, statements: str, questions: str, follow_up: str) -> Relation:
    return Relation(
        name=name,
        column=column,
        statements=tuple(statements.split("|")),
        questions=tuple(questions.split("|")),
        follow_up=follow_up,
    )


RELATIONS: Mapping[str, Sequence[Relation]] = {
    "animal": (
        _relation(
            "home",
            1,
            "{x} lives {v}.|{x} has its home {v}.|you can find {x} {v}.",
            "where does {x} live?|where is the home of {x}?|where can I find {x}?|tell me where {x} lives.",
            "where does it live?",
        ),
        _relation(
            "food",
            2,
            "{x} eats {v}.|{x} likes to eat {v}.|the food of {x} is {v}.",
            "what does {x} eat?|what is the food of {x}?|what does {x} like to eat?|tell me what {x} eats.",
            "what does it eat?",
        ),
        _relation(
            "colour",
            3,
            "{x} is {v}.|the colour of {x} is {v}.|{x} has a {v} coat.",
            "what colour is {x}?|what is the colour of {x}?|which colour does {x} have?|tell me the colour of {x}.",
            "what colour is it?",
        ),
        _relation(
            "sound",
            4,
            "{x} {v}.|you can hear it when {x} {v}.|every morning {x} {v}.",
            "what sound does {x} make?|how does {x} sound?|what noise does {x} make?|tell me the sound of {x}.",
            "what sound does it make?",
        ),
        _relation(
            "skill",
            5,
            "{x} can {v}.|{x} knows how to {v}.|{x} is able to {v}.",
            "what can {x} do?|what is {x} able to do?|what does {x} know how to do?|tell me what {x} can do.",
            "what can it do?",
        ),
        _relation(
            "young",
            6,
            "the young of {x} is called a {v}.|a baby of {x} is a {v}.|{x} has a little {v}.",
            "what is the young of {x} called?|what is a baby of {x}?|how do you call the young of {x}?"
            "|tell me the name of the young of {x}.",
            "what is its young called?",
        ),
    ),
    "person": (
        _relation(
            "work",
            1,
            "{x} is {v}.|{x} works as {v}.|the work of {x} is to be {v}.",
            "what is the job of {x}?|what work does {x} do?|what does {x} work as?|tell me the job of {x}.",
            "what is the job?",
        ),
        _relation(
            "town",
            2,
            "{x} lives in {v}.|{x} comes from {v}.|the home town of {x} is {v}.",
            "where does {x} live?|which town does {x} come from?|what is the home town of {x}?"
            "|tell me the town of {x}.",
            "which town is it?",
        ),
        _relation(
            "pet",
            3,
            "{x} has {v}.|{x} keeps {v}.|the pet of {x} is {v}.",
            "what pet does {x} have?|what is the pet of {x}?|which animal does {x} keep?|tell me the pet of {x}.",
            "which pet is there?",
        ),
        _relation(
            "meal",
            4,
            "{x} loves {v}.|the favourite food of {x} is {v}.|{x} eats {v} every day.",
            "what food does {x} love?|what is the favourite food of {x}?|what does {x} eat every day?"
            "|tell me the food of {x}.",
            "which food is best loved?",
        ),
        _relation(
            "paint",
            5,
            "the favourite colour of {x} is {v}.|{x} likes {v} best.|{x} wears {v} clothes.",
            "what is the favourite colour of {x}?|which colour does {x} like best?|what colour does {x} wear?"
            "|tell me the colour {x} likes.",
            "which colour is best loved?",
        ),
    ),
    "thing": (
        _relation(
            "material",
            1,
            "{x} is made of {v}.|{x} is of {v}.|they made {x} of {v}.",
            "what is {x} made of?|which material is {x} of?|of what did they make {x}?|tell me what {x} is made of.",
            "what is it made of?",
        ),
        _relation(
            "use",
            2,
            "you use {x} to {v}.|{x} helps you to {v}.|with {x} you can {v}.",
            "what is {x} for?|what can you do with {x}?|how do you use {x}?|tell me the use of {x}.",
            "what is it for?",
        ),
        _relation(
            "place",
            3,
            "{x} is {v}.|you will find {x} {v}.|{x} is kept {v}.",
            "where is {x}?|where can I find {x}?|where is {x} kept?|tell me where {x} is.",
            "where is it?",
        ),
    ),
}

_TABLES = {"animal": ANIMALS, "person": PEOPLE, "thing": THINGS}


def all_facts() -> list[Fact]:
    """Every fact of the world, in table order."""
    facts: list[Fact] = []
    for kind, table in _TABLES.items():
        for row in table.strip().splitlines():
            cells = row.split("|")
            subject = cells[0] if kind == "person" else f"the {cells[0]}"
            facts += [
                Fact(kind=kind, subject=subject, relation=relation, value=cells[relation.column])
                for relation in RELATIONS[kind]
            ]
    return facts


def people() -> list[str]:
    """The names of the people of the world."""
    return [row.split("|")[0] for row in PEOPLE.strip().splitlines()]


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, each as likely as the others."""
    return options[int(rng.integers(len(options)))]
