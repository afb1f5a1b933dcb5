"""app — puts the rooms together for the commands."""
