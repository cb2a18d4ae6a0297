"""The GPU shell: one loop and one executor child for each GPU of a host."""
