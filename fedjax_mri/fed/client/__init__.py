"""Local training of one client: batches, local steps, and which parameters it shares with the server."""
