"""The data plane: Envoy's endpoint picker.

The path of one request: `http2` or `grpc_transport` -> `conversation` -> `codec` <-> `stream` -> `admission`
(`flowcontrol`) -> `director` (`openai`, `scheduling`, `inflight`) -> back. What it knows of the world: `sources` and
`scraper` feed `datastore` and `inflight`. Reading order: `domain`, `stream`, `director`, `scheduling.policies`,
`admission`, `conversation`, `cli`.
"""
