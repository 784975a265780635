"""What a user can ask, one file each. `run` is the story."""
