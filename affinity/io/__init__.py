"""Carrying, not deciding: the only importers of aio_pika and redis.

``ports`` says what the processes may ask for; ``rabbit``, ``job_store``, ``fleet_store`` and ``events`` do it against
real servers. The fakes in ``tests/support`` pass the same conformance suite.
"""
