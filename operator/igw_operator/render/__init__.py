"""From the plan to one proxy's own objects. Pure: the text of files, no file access.

`bootstrap` is the entry; it uses `listeners` and `filters` (what a port does), `routes` and `clusters`.
"""
