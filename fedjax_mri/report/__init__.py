"""Pages, tables and figures made of finished runs and studies. It imports run, study and what they import."""
