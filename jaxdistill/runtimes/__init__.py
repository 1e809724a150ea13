"""Runtimes: what loads a model and writes with it, each measured in a process of its own.

Nothing is imported here: memory is measured, too, and one runtime is no part of another's.
"""
