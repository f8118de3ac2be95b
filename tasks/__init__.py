"""The benchmarks, one file each, found through the entry points `harness.tasks`."""
