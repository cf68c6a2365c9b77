"""The command line: words in, words out. It may import every room."""
