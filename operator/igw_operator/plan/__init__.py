"""From what users declared to what a gateway shall do, without knowing any proxy. Pure.

`model` holds the values, `build` makes them from an ObjectSet, `routing` orders routes, `backends` finds endpoints.
"""
