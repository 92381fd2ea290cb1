"""The formats in which models call tools and think aloud. A package's manifest names the one of its model."""
