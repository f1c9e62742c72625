"""Load and measurement: `igw demo` (demo, load, report) and the picker's own cost (picker, stub, load).

Drives the product from outside: processes, ports and HTTP. Only `picker` and `scrape` import a plane, to time single
functions of it.
"""
