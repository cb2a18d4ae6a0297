"""The routes, by what they are about. Each reads its request, asks a use case or a port, and writes the answer."""
