"""The heart of Affinity: what a job, a fleet and a decision are. Both processes and the simulator share it.

Everything here but ``affinity.io`` is pure: no clock, no sockets, no logging. ``affinity.io`` carries it out.
"""
