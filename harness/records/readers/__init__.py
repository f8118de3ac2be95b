"""Results of other programs as records, to be compared and ranked with ours."""
