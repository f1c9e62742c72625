"""The contract both planes share: API kinds, wire names, and the one internal model they convert to.

No I/O here, no clock, no engine knowledge. Reading order: `objects` (what everything converts to), `inferencepool`,
`inferencemodel`, `gateway` (the versions users write), `manifests` (YAML text to objects and errors), `wire`.
"""
