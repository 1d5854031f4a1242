"""Several hosts by ssh: the host file, the check of every host before the start, and DeepSpeed's runner on a
leash.
"""
