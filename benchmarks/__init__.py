"""Benchmarks: `make bench` measures DreamCuts beside other Postgres queues; views.py measures the views."""
