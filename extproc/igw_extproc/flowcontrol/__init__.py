"""Whether a request may be placed now, must wait, or is refused. Pure: no I/O, no clock; `now` is an argument.

The director asks `saturation`: where a pool has no queue, sheddable work is refused while it is full. `admission` asks
the rest: `queue` (the limits, and every waiter's end) over `bands` (priorities) over `fairness` (tenants); `room`
(whether to dispatch), `drain` (when to come back), `tenants` (whose request it is), `waiters` (the values of all these,
and what is kept of a request that waits).
"""
