"""Evaluations after the last round: fine-tuned models, ensembles of clients' models, and distillation."""
