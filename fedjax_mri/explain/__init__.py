"""A trained classifier's predictions on files, explained, measured, and marked where a person should look."""
