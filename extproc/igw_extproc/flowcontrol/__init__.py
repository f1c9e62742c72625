"""Whether a request may be placed now, must wait, or is refused. Pure: no I/O, no clock; `now` is an argument.

The director asks `saturation`: sheddable work is refused while its pool is full. The rest is the queue that requests
wait in, which nothing asks yet: `queue` (the limits, and every waiter's end) over `bands` (priorities) over `fairness`
(tenants), `room` (whether to dispatch), `drain` (when to come back), `tenants` (whose request it is), `waiters` (the
values of all these, and what is kept of a request that waits).
"""
