"""Pairs of prompts that differ in one word, and the continuations that it decides.

All words are one token of Gemma 3's tokenizer, with the space before it, so that the
prompts of a behaviour have one length and a position means the same in each.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import sae_lens_ext as sle


@dataclass(frozen=True)
class Behaviour:
    """Pairs of prompts, and what continues the first and the second of each.

    Attributes:
        name: of the behaviour.
        pairs: clean and corrupted prompts.
        yes: by pair, the word that continues the clean prompt.
        no: the one that continues the corrupted prompt.
    """

    name: str
    pairs: Sequence[tuple[str, str]]
    yes: Sequence[str]
    no: Sequence[str]

    def metric(self) -> sle.circuits.LogitDifference:
        """How much more the right word of every pair is predicted than the other."""
        return sle.circuits.logit_difference(list(self.yes), list(self.no))

    def some(self, rows: Sequence[int]) -> "Behaviour":
        """The same with some of the pairs."""
        return Behaviour(
            self.name,
            [self.pairs[row] for row in rows],
            [self.yes[row] for row in rows],
            [self.no[row] for row in rows],
        )


_SUBJECTS = (
    "actor author bird boy car chair doctor dog door driver farmer friend girl horse "
    "house key king lawyer letter painting picture ship student teacher"
)
_OTHERS = (
    "bridge building cabinet car farm garden hotel house island lake park school "
    "station table tower window"
)
_PREPOSITIONS = ("behind", "beside", "by", "near")
_WOMEN = (
    "Alice Anna Emma Helen Jane Julia Karen Kate Laura Linda Lisa Lucy Maria Mary "
    "Nancy Rose Sarah Susan"
)
_MEN = (
    "Brian Daniel David Eric Frank George Henry Jack James John Kevin Mark Michael "
    "Paul Peter Robert Steve Tom"
)
_DEEDS = (
    "went home early",
    "left the house",
    "opened the window",
    "called the doctor",
)


def agreement(n_pairs: int, seed: int = 0) -> Behaviour:
    """A verb agrees with its subject, across a noun of the other number.

    "The key near the cabinets" is continued by " is", and "The keys near the cabinets"
    by " are". Half of the clean subjects are singular.
    """
    rng = random.Random(seed)
    pairs = []
    yes = []
    for number in range(n_pairs):
        subject = rng.choice(_SUBJECTS.split())
        other = rng.choice([noun for noun in _OTHERS.split() if noun != subject])
        preposition = rng.choice(_PREPOSITIONS)
        is_singular = number % 2 == 0
        end = f"{preposition} the {other}"
        if is_singular:
            end += "s"
        singular = f"The {subject} {end}"
        plural = f"The {subject}s {end}"
        pairs.append((singular, plural) if is_singular else (plural, singular))
        yes.append(" is" if is_singular else " are")
    no = [" are" if word == " is" else " is" for word in yes]
    return Behaviour("agreement", pairs, yes, no)


def pronouns(n_pairs: int, seed: int = 0) -> Behaviour:
    """A pronoun agrees with the name that it stands for.

    "Mary went home early because" is continued by " she", and "John went home early
    because" by " he". Half of the clean names are women's.
    """
    rng = random.Random(seed)
    pairs = []
    yes = []
    for number in range(n_pairs):
        end = f"{rng.choice(_DEEDS)} because"
        woman = f"{rng.choice(_WOMEN.split())} {end}"
        man = f"{rng.choice(_MEN.split())} {end}"
        is_woman = number % 2 == 0
        pairs.append((woman, man) if is_woman else (man, woman))
        yes.append(" she" if is_woman else " he")
    no = [" he" if word == " she" else " she" for word in yes]
    return Behaviour("pronouns", pairs, yes, no)
