"""Rounds as compiled programs: schedule, lanes, placement of data, plans, evaluation."""
