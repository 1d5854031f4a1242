"""Starts a run, watches it and ends it: on this machine, on hosts by ssh, or through a scheduler."""
