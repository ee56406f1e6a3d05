"""What passes between steps on disk: verified on reading, written whole or not at all."""
