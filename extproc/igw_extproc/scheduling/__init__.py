"""Placement: candidates -> costs -> choice -> reservation, in one step of the event loop.

Pure: no I/O, no clock; `now` and `rng` are arguments. Reading order: policies (the table of all there is), scorers
(what an endpoint costs), pickers (how costs become an order), framework (the step that reserves), filters, prefix.
"""
