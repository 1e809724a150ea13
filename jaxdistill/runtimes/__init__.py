"""Runtimes that load a model and generate text, each measured in a subprocess.

Nothing is imported here: memory is measured, and one runtime must not load another's libraries.
"""
