"""Where results live: paths and URIs, the manifest."""
