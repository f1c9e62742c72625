"""From what users declared to what a gateway shall do, without knowing any proxy. Pure.

`model` holds the values and `build` makes them from an ObjectSet: `attach` says who may sit on which listener,
`routing` in which order, and `backends` which endpoints a name stands for.
"""
