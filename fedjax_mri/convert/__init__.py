"""Translates files from CT to MR and back by a trained model. It imports run and what run imports."""
