"""Routers: which experts a token passes, and with which weight. One rule per file."""
