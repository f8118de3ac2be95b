"""Commands that read finished runs: explain, report, curve, overlap."""
