"""What one client does between broadcast and update: batches, local steps, and which parameters move or stay."""
