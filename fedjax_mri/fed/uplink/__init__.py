"""What happens to updates on their way from clients to the server."""
