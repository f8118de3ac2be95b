"""What a run leaves behind: records, outcomes of single examples, dumps and traces."""
