"""What is asked of the endpoint that gets a request: model, tokens, prefix, adapter. Pure; called by `director`."""

from igw_extproc import openai
from igw_extproc.datastore import PoolView, Resolved
from igw_extproc.domain import Ask
from igw_extproc.errors import BadRequest
from igw_extproc.inflight import Ledger
from igw_extproc.request_headers import RequestHeaders
from igw_extproc.scheduling.framework import Scheduler
from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN, chain, seed
from igw_extproc.scheduling.split import SplitScheduler

_PRODUCES_NOTHING = frozenset({openai.Api.EMBEDDINGS, openai.Api.RERANK})
# Engines take the parameters of a moved prompt with these.
_DIVISIBLE = frozenset({openai.Api.CHAT, openai.Api.COMPLETIONS})


def model_name(reading: openai.Reading, header: RequestHeaders, view: PoolView, complete: bool) -> str | None:
    """The model asked for: in the body, else in the header, else the pool's only one if the body cannot tell.

    Raises BadRequest for a whole body without one.
    """
    name = reading.model or header.model or None
    if name is None and reading.api is not openai.Api.OPAQUE:
        if complete:
            raise BadRequest("The body has no `model`. Name the model that shall answer.")
        return view.only_model
    return name


def adapter(resolved: Resolved, allowed: list[Ledger]) -> str | None:
    """The adapter to have in place. Where no engine tells of adapters, another name is but a name."""
    if resolved.adapter is None:
        return None
    told = any(ledger.load is not None and ledger.load.max_adapters is not None for ledger in allowed)
    return resolved.adapter if told else None


def asked_of(
    reading: openai.Reading,
    resolved: Resolved,
    lora: str | None,
    scheduler: Scheduler | SplitScheduler,
    body_bytes: int,
    expected: int,
) -> Ask:
    """All that placement knows of it. `expected`: tokens of its answer, unless it sets a bound."""
    text, target = reading.text, resolved.target or ""
    # An opaque or unreadable body still costs something: its size is the best guess.
    prompt = (len(text) or body_bytes) // BYTES_PER_TOKEN + 1
    produces = 0 if reading.api in _PRODUCES_NOTHING else expected
    output = produces if reading.max_tokens is None else min(produces, reading.max_tokens)
    prefix = chain(text, seed(target, reading.salt, lora)) if text and scheduler.reads_prefixes else ()
    divisible = reading.api in _DIVISIBLE
    return Ask(target, prompt, output, prefix, lora, resolved.priority, divisible=divisible, streams=reading.stream)


def rewritten(reading: openai.Reading, asked: str | None, target: str | None) -> bytes | None:
    """The body with the target's name. None: it stays, since it has that name, or we have no whole body to change."""
    if target is None or target == asked or reading.document is None:
        return None
    return openai.rewrite_model(reading.document, target)
