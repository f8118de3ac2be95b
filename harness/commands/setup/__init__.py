"""Commands about the installation: doctor, cache, init-task."""
