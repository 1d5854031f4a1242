"""What happens around the steps of training: one concern a file, in the order in which the worker lists
them.
"""
