"""The HTTP server: connections, requests, TLS, users."""
