"""What changes the updates of a cohort before a rule combines them, one in each file: settings of a `Preaggregator`."""
