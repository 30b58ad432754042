"""The makers of the fixtures are scripts for other environments, not modules."""

collect_ignore_glob = ["fixtures/*.py"]
