"""From a checked request to a fixed generation: how long the reply is, its text, its blocks, its usage."""

from dataclasses import dataclass
from random import Random

from igw_sim import tokens
from igw_sim.calls import ApiError, Call
from igw_sim.events import Header, Usage
from igw_sim.lengths import Lengths, output_length
from igw_sim.model import Finished, Limits, Request


@dataclass(frozen=True, slots=True)
class Job:
    """One generation. `text` is `request.output_tokens` tokens."""

    request: Request
    text: bytes

    def header(self, call: Call, created: int) -> Header:
        """What its reply repeats; `created` is Unix time in seconds."""
        named = call.response_id or "resp_" + self.request.id
        return Header(self.request.id, call.model, created, call.include_usage, self.request.finish_reason, named)

    def usage(self, finished: Finished) -> Usage:
        """The token counts of its reply."""
        return Usage(finished.prompt_tokens, finished.output_tokens, finished.cached_tokens)


def plan(call: Call, request_id: str, limits: Limits, lengths: Lengths, seed: int) -> Job:
    """Fix a generation; the same call and seed give the same one. ApiError 400 if it is too long for the model.

    The length comes from `lengths`, drawn with a seed made of the prompt; what is not generated text takes one token.
    """
    prompt_tokens = tokens.token_count(call.prompt)
    room = limits.longest - prompt_tokens
    if room < 1 or (call.max_tokens or 0) > room:
        raise ApiError(
            400,
            f"This model's maximum context length is {limits.longest} tokens. However, your request has "
            f"{prompt_tokens} input tokens and asks for {call.max_tokens or 1} output tokens.",
            param="max_tokens",
        )
    content = tokens.content_seed(call.prompt)
    natural = lengths.draw(Random(content ^ seed)) if not call.inputs else 1
    count, reason = output_length(natural, call.max_tokens or room, call.min_tokens, call.ignore_end)
    text = tokens.reply(content, count)
    hashes = tokens.block_hashes(call.prompt + text, limits.block_tokens, call.adapter or "")
    return Job(Request(request_id, prompt_tokens, count, hashes, call.adapter, reason), text)
