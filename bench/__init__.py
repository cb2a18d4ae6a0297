"""Measurements and checks of a running system from the outside. ``python -m bench`` lists the commands."""
