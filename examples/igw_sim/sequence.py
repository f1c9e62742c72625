"""One request inside the engine: how far it is, and which blocks it holds."""

from igw_sim.model import Finished, Request


class Sequence:
    """Mutable state of a request. Its block table is the `held` hashes plus `anonymous` blocks.

    While it prefills, `computed` of `target` tokens have KV. Decoding begins at the end of step `entered`; from then
    on the sequence advances by one token in every step, so its state follows from the number of steps since.
    """

    __slots__ = (
        "admitted_at",
        "anonymous",
        "arrived_at",
        "cached_tokens",
        "computed",
        "emitted",
        "entered",
        "first_token_at",
        "held",
        "order",
        "pair",
        "preemptions",
        "published",
        "remote",
        "request",
        "target",
    )

    def __init__(self, request: Request, arrived_at: float) -> None:
        self.request = request
        # What a step reports of it: its id and one token.
        self.pair = (request.id, 1)
        self.arrived_at = arrived_at
        self.admitted_at = self.first_token_at = -1.0
        self.cached_tokens = self.preemptions = self.order = 0
        self.emitted = 0
        self.computed = 0
        self.target = request.prompt_tokens
        self.entered = -1
        # Whether the prompt's KV is still to come from another engine. Lost later, it is computed here.
        self.remote = request.remote_kv
        self.held: list[int] = []
        self.anonymous = 0
        # How many leading blocks came from the prefix cache, or were offered to it.
        self.published = 0

    @property
    def blocks(self) -> int:
        """How many blocks it holds."""
        return len(self.held) + self.anonymous

    def computed_by(self, step: int) -> int:
        """Tokens with KV at the end of this step, for a decoding sequence."""
        return self.target + step - self.entered

    def emitted_by(self, step: int) -> int:
        """Tokens emitted at the end of this step."""
        return self.emitted + (step - self.entered if self.entered >= 0 else 0)

    def vacate(self) -> None:
        """Forget the blocks and the progress; both are to be got again."""
        self.held, self.anonymous, self.published = [], 0, 0
        self.computed, self.entered = 0, -1

    def finished(self, at: float) -> Finished:
        """The record of this request, when its last token came `at` this time."""
        return Finished(
            id=self.request.id,
            prompt_tokens=self.request.prompt_tokens,
            output_tokens=self.request.output_tokens,
            cached_tokens=self.cached_tokens,
            arrived_at=self.arrived_at,
            queued_s=self.admitted_at - self.arrived_at,
            first_token_at=self.first_token_at,
            last_token_at=at,
            preemptions=self.preemptions,
        )
