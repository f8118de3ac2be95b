"""What the commands print: values of `harness.report` on a terminal."""
