"""The HTTP port: connections, requests, TLS, users."""
