"""Complete trees of real stages, as files: their format, and stages that are answered from them."""
