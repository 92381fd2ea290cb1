"""One class a route."""
