"""The queues under test, each as a program (see benchmarks/program.py)."""
