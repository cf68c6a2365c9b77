"""A trained translation model applied to files: CT into MR and MR into CT, the same kind of file out."""
