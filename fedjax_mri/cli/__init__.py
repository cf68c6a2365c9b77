"""The command line: its arguments, commands and progress. It may import every room."""
