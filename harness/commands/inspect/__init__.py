"""Commands that read finished runs: explain, report, curve, leaderboard, overlap."""
