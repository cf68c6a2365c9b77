"""What is done with a federation after its last round: fine-tuning, ensembles and distillation."""
