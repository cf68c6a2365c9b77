"""Where examples come from, how they are dealt out to hospitals, and how they are read inside the compiled step."""
