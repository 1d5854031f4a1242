"""Several hosts by ssh: the host file, the check of every host, and DeepSpeed's runner under a supervisor."""
