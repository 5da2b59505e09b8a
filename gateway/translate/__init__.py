"""Docker bodies to zone specs and zones to Docker's answers.  Pure: no clock, files or loop.

to_zone     plan (what the body means, checked) and zone_spec (the payload)
from_zone   inspect and the rows of the list
config, host_config, limits, security, mounts, ports, networking: one idea of the body each
"""
