"""Bringing versions of a model to a device, trying them there, and returning to the one before.

receive > verify > self-test > switch > trial > commit; a trial that fails ends in the version before, by itself.
"""
