"""Multi-query associative recall (MQAR): the task, training small models on it, and reading their circuit."""
