"""From a trained network to small, verified, measured files."""
