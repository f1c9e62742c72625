"""The control plane: what users declare, turned into what Envoy does.

It never sees a request. Reading order: `plan.model` (what is intended), `plan.build` (objects to plan and conditions,
pure), `render.bootstrap` (plan to Envoy's files, pure), `envoy` (the process), `standalone` (`igw up`: files to a
running gateway), `cli`.
"""
