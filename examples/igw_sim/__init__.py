"""A simulated LLM engine: continuous batching, a paged KV cache with prefix reuse, LoRA slots, real metric names.

`engine` and what it uses is pure and runs on any clock; `server` puts it behind the HTTP API of the real engines.
It imports nothing of the gateway, so that it can check the gateway. Run it with `igw sim` or `python -m igw_sim`.
"""
