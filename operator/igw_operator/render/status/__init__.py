"""What users are told in the status of their objects. Pure: values in, patches out.

`statuses` (module `patches`) is the entry; `values` has what it takes and gives, `pools` what is said of a pool on each
Gateway.
"""
