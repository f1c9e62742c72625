"""The contract both planes share: API kinds, wire names, and the one internal model they convert to.

No I/O here, no clock, no engine knowledge. Reading order: `objects` (what everything converts to), `inferencepool`,
`inferencemodel`, `endpoints`, `gateway` (the versions users write), `manifests` (text to objects and problems),
`objectset` (what the operator hands to the picker), `resolution` (who wins a conflict), `wire`.
"""
