"""Speed against peers and limits: `python -m benchmarks.decode`, `.train`, `.scale`, `.startup`, or `make bench`."""
