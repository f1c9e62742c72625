"""Which reply answers which API. Embeddings and rankings are not generated: they are plain functions."""

import struct
from base64 import b64encode
from collections.abc import Callable
from random import Random

import orjson

from igw_sim.calls import Call
from igw_sim.completions import Chat, Completion
from igw_sim.events import Header, Reply
from igw_sim.messages import Messages
from igw_sim.responses import Responses

REPLIES: dict[str, Callable[[Header], Reply]] = {
    "chat": Chat,
    "completions": Completion,
    "responses": Responses,
    "messages": Messages,
}
_EMBEDDING_SIZE = 64


def embeddings(call: Call, request_id: str, prompt_tokens: int) -> bytes:
    """The body of `/v1/embeddings`: a unit vector per input, equal for equal inputs."""
    data = []
    for index, text in enumerate(call.inputs):
        vector = _vector(text)
        packed = b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": packed if call.base64 else vector})
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"id": request_id, "object": "list", "model": call.model, "data": data, "usage": usage})


def ranking(call: Call, request_id: str, prompt_tokens: int) -> bytes:
    """The body of `/v1/rerank`: documents by a made-up score, equal for equal documents."""
    scored = sorted(((Random(text).uniform(0, 1), index) for index, text in enumerate(call.inputs)), reverse=True)
    results = [
        {"index": index, "document": {"text": call.inputs[index]}, "relevance_score": score}
        for score, index in scored[: call.top_n]
    ]
    usage = {"total_tokens": prompt_tokens}
    return orjson.dumps({"id": request_id, "model": call.model, "results": results, "usage": usage})


BODIES: dict[str, Callable[[Call, str, int], bytes]] = {"embeddings": embeddings, "rerank": ranking}


def _vector(text: str) -> list[float]:
    rng = Random(text)
    vector = [rng.gauss(0, 1) for _ in range(_EMBEDDING_SIZE)]
    norm = sum(value * value for value in vector) ** 0.5
    return [value / norm for value in vector]
