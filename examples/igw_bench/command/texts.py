"""Texts that are equal exactly as far as they are meant to be, and the pictures of them that need no text.

A prompt is a row of pieces. A piece with the same name has the same text everywhere, up to its length, so prompts share
a beginning exactly as far as they begin with the same pieces. Tokens are words of three letters and a space: one
token for most tokenizers, four bytes for `igw sim`. Pure. Called by `plans` (pictures) and `loops` (texts).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random

from igw_bench.workloads import Job, boundaries
from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN, Prefix

# Longest prompt whose picture is made, in tokens.
_LONGEST = 1 << 18
# What a chat template adds to a single message, by the simulated engines' count; real ones add 5 to 40.
TEMPLATE_TOKENS = 3
MESSAGE_TOKENS = 2
_VOCABULARY = (
    "act add age ago aim air all and any arm art ask bag bar bed bet big bit box boy buy can cap car cup cut day dog "
    "dry due ear eat egg end eye far fee few fit fix fly for fun gas get gap gun guy hat hit hot how ice ill job key "
    "kid law lay leg let lie lot low map may met mix net new now odd off oil old one our out own pay per put ran raw "
    "red run say sea see set she shy sit six sky son sum sun tax tea ten the tie tip too top try two use war way "
)
_WORDS = tuple(_VOCABULARY.split())
# Words that begin a piece are its own; 100 to the power of 8 are enough to tell all pieces apart.
_OWN_WORDS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt. Pieces of one name are beginnings of one text."""

    name: int
    tokens: int


def named(kind: int, number: int) -> int:
    """A name that no other kind or number has."""
    return kind << 48 | number


# ------------------------------------------------------------------------------------------------ texts


def text(pieces: Iterable[Piece], salt: str) -> str:
    """The words of these pieces. Another salt gives another text for each."""
    return "".join(_words(salt, one.name, one.tokens) for one in pieces)


def _words(salt: str, name: int, tokens: int) -> str:
    return _long(salt, name, -(-tokens // 512) * 512)[: tokens * BYTES_PER_TOKEN]


@lru_cache(4096)
def _long(salt: str, name: int, tokens: int) -> str:
    rng = Random(f"{salt}/{name}")
    own = "".join(f"{word} " for word in rng.choices(_WORDS, k=_OWN_WORDS))
    stock = _stock()
    begin = rng.randrange(len(stock) // BYTES_PER_TOKEN) * BYTES_PER_TOKEN
    times = tokens * BYTES_PER_TOKEN // len(stock) + 2
    return (own + (stock * times)[begin:])[: tokens * BYTES_PER_TOKEN]


@cache
def _stock() -> str:
    return "".join(f"{word} " for word in Random(0).choices(_WORDS, k=16_384))


def pieces_of(job: Job, block_tokens: int) -> tuple[Piece, ...]:
    """The prompt of a job whose blocks are numbered: a piece for each full block, and its own text for the rest."""
    full = min(job.prompt_tokens // block_tokens, len(job.blocks))
    shared = [Piece(named(1, block), block_tokens) for block in job.blocks[:full]]
    return (*shared, Piece(named(2, job.number), job.prompt_tokens - full * block_tokens))


# ------------------------------------------------------------------------------------------------ pictures


def prefix_of(pieces: Sequence[Piece]) -> Prefix:
    """What the picker's `chain` would find in such a prompt."""
    total = sum(one.tokens for one in pieces)
    return tuple(_marks(pieces, (end for end, needed in boundaries(_LONGEST) if needed <= total)))


def blocks_of(pieces: Sequence[Piece], block_tokens: int) -> tuple[int, ...]:
    """The engine's hashes of the full blocks of such a text."""
    total = sum(one.tokens for one in pieces)
    ends = range(block_tokens, total + 1, block_tokens)
    return tuple(mark for mark, _ in _marks(pieces, ends))


def _marks(pieces: Sequence[Piece], ends: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(a number that is equal for equal beginnings, end), for the ends within the text. Of integers: no random seed."""
    row = iter(pieces)
    before, so_far = 0, 0
    piece = next(row, Piece(0, 0))
    for end in ends:
        while end > before + piece.tokens:
            so_far = hash((so_far, piece.name, piece.tokens))
            before += piece.tokens
            following = next(row, None)
            if following is None:
                return
            piece = following
        yield hash((so_far, piece.name, end)), end
