"""The command `fedjax-mri prepare`: files made ready for training by steps, with a record and a page."""
