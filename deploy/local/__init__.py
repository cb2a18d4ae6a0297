"""One bare machine: private RabbitMQ and Redis, the supervisor of ``make run`` and the tour of ``make demo``.

Nothing here is imported by the services; it only starts them, with the same commands the container images use.
"""
