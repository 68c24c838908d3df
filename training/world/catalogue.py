"""What there is in the world: sprites, coloured shapes and lettered cards, each a class with a number and a name."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

ASSETS = Path(__file__).parent / "assets"

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 40),
    "green": (40, 160, 50),
    "turquoise": (50, 215, 205),
    "blue": (40, 70, 220),
    "purple": (130, 40, 180),
    "pink": (250, 130, 190),
    "brown": (120, 70, 30),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "hexagon", "hoop", "crescent")
WORDS = tuple(
    """
    OPEN CLOSED EXIT STOP TAXI HOTEL CAFE BANK SHOP SALE PARK POOL FARM FIRE GATE HOME MENU NEWS NORTH SOUTH
    EAST WEST PIANO QUIET RADIO ROOM SCHOOL SILVER GOLD STAGE TICKET TOWER TRAIN TUNNEL VALLEY WATER WINTER
    SUMMER SPRING ZONE ALARM APRIL AUGUST BAKERY BEACH BRIDGE CASTLE CIRCLE CITY COAST DANGER DENTIST DOCTOR
    EARTH ENGINE FERRY FOREST GARDEN GUIDE HARBOR HELLO ISLAND JULY JUNGLE KITCHEN LEMON LIBRARY LUNCH MARKET
    MONDAY MUSEUM OCEAN OFFICE ORANGE PALACE PEPPER PILOT PLANET POLICE RIVER ROCKET SUNDAY THANKS
    """.split()
)
NUMBERS = tuple(str(number) for number in range(10, 100))

# Names that take "any" and no plural, being plural already or a stuff.
_UNCOUNTABLE = frozenset(
    """
    grapes cherries blueberries corn broccoli bread pancakes cheese bacon fries popcorn butter spaghetti sushi
    honey bricks bowling dice yarn sunglasses jeans gloves socks headphones maracas scissors scales footprints
    santa
    """.split()
)
_PLURALS = {
    "wolf": "wolves", "fox": "foxes", "mouse": "mice", "octopus": "octopuses", "cactus": "cactuses", "peach": "peaches",
    "strawberry": "strawberries", "sandwich": "sandwiches", "compass": "compasses", "church": "churches",
    "bus": "buses", "walrus": "walruses", "torch": "torches", "tooth": "teeth", "toothbrush": "toothbrushes",
    "paintbrush": "paintbrushes", "wrench": "wrenches", "lynx": "lynxes",
    "dolphin": "dolphins", "fire truck": "fire trucks",
    "goose": "geese", "dress": "dresses", "scarf": "scarves", "tomato": "tomatoes", "volcano": "volcanoes",
    "postbox": "postboxes", "toolbox": "toolboxes", "lab coat": "lab coats", "cross": "crosses",
    "party popper": "party poppers", "hibiscus": "hibiscuses", "squid": "squid", "shrimp": "shrimps", "radio": "radios",
    "butterfly": "butterflies", "baby bottle": "baby bottles",
}  # fmt: skip

Family = Literal["sprite", "shape", "card"]


@dataclass(frozen=True, slots=True)
class Thing:
    """A class of things; `number` is its class and its texture at once. A card's name is what it reads."""

    number: int
    name: str
    family: Family

    @property
    def countable(self) -> bool:
        return self.name not in _UNCOUNTABLE

    @property
    def plural(self) -> str:
        return _PLURALS.get(self.name, f"{self.name}s")

    @property
    def indefinite(self) -> str:
        """The name with its indefinite article, as after "is there"."""
        return with_article(self.name) if self.countable else f"any {self.name}"


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an", by its first letter (and sound, where the two differ in this world)."""
    vowel = phrase.startswith((*"aeio", "umb", "hour"))
    return f"{'an' if vowel else 'a'} {phrase}"


@cache
def things() -> tuple[Thing, ...]:
    """Every class of the world, sprites first, then shapes, then cards."""
    sheet = json.loads((ASSETS / "sprites.json").read_text(encoding="utf-8"))
    named: list[tuple[str, Family]] = [(sprite["name"], "sprite") for sprite in sheet["sprites"]]
    named += [(shape, "shape") for shape in SHAPES]
    named += [(text, "card") for text in (*WORDS, *NUMBERS)]
    return tuple(Thing(number, name, family) for number, (name, family) in enumerate(named))


@cache
def of_family(family: Family) -> tuple[Thing, ...]:
    """All classes of one family, in order."""
    return tuple(thing for thing in things() if thing.family == family)
