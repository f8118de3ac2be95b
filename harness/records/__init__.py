"""The files that a run writes: records, outcomes of examples, dumps and traces."""
