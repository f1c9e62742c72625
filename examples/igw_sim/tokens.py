"""A stand-in for a tokenizer and a model: text to tokens, tokens to block hashes, and made-up replies.

A token is four bytes of UTF-8. A token sequence is therefore a `bytes` object with a length that is a multiple of
four, and texts with an equal beginning have equal first tokens. Replies are three-letter words, each with its space
one token, so that a reply sent back in the next turn gives the very tokens that were generated.
"""

from collections.abc import Iterable
from random import Random

from xxhash import xxh64_intdigest

TOKEN_BYTES = 4
_WORDS = (
    b"the and for are but not you all can her was one our out day get has him his how man new now old see two way who "
    b"boy did its let put say she too use air arm art ask bad bag bed big bit box car cat cup cut dog dry ear eat egg "
    b"end eye far few fly fun hot ice job key law leg lot map mix net oil own pay pen red run sea set sky son sun tea "
    b"ten tie top toy try war wet why win yes yet "
)
# Each turn of a conversation ends with this token; its role is a token before it.
_END = b"<\x00/>"


def tokenize(text: str) -> bytes:
    """The tokens of a text, the last one padded."""
    data = text.encode("utf-8", "surrogatepass")
    return data + b"\0" * (-len(data) % TOKEN_BYTES)


def conversation(turns: Iterable[tuple[str, str]]) -> bytes:
    """The tokens of (role, text) turns, and of the beginning of the assistant's next one."""
    parts = [_role(role) + tokenize(text) + _END for role, text in turns]
    return b"".join(parts) + _role("assistant")


def _role(role: str) -> bytes:
    return b"<" + role.encode("utf-8", "surrogatepass")[:3].ljust(3, b"\0")


def token_count(tokens: bytes) -> int:
    """How many tokens these bytes are."""
    return len(tokens) // TOKEN_BYTES


def block_hashes(tokens: bytes, block_tokens: int, salt: str = "") -> tuple[int, ...]:
    """One hash for each full block, each over everything before it too. `salt` keeps adapters apart."""
    size = block_tokens * TOKEN_BYTES
    parent = xxh64_intdigest(salt.encode())
    hashes = []
    for start in range(0, len(tokens) - size + 1, size):
        parent = xxh64_intdigest(tokens[start : start + size], parent)
        hashes.append(parent)
    return tuple(hashes)


def content_seed(tokens: bytes) -> int:
    """A number that depends on the tokens only, to seed what is made up for them."""
    return xxh64_intdigest(tokens)


def _stream(count: int) -> bytes:
    words = [_WORDS[start : start + TOKEN_BYTES] for start in range(0, len(_WORDS), TOKEN_BYTES)]
    return b"".join(Random(0).choices(words, k=count))


# Replies are cuttings of one long text: making one is a slice, however long it is.
_TEXT = _stream(8192)


def reply(seed: int, count: int) -> bytes:
    """`count` tokens of made-up text; equal seeds give equal beginnings."""
    start = seed % (len(_TEXT) // TOKEN_BYTES) * TOKEN_BYTES
    length = count * TOKEN_BYTES
    repeats = (start + length) // len(_TEXT) + 1
    return (_TEXT * repeats)[start : start + length]
