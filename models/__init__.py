"""What can be served: the catalogue, the checks of inputs, and the runtimes that hold weights.

Only ``models.runtimes`` and a user's own classes (such as ``models.example``) import torch.
"""
