"""What Clarion does on this machine, beside what the machine itself can: `python -m benchmarks`."""
