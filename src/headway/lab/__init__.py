"""What Headway does to a system to learn the truth about it: load it, and later break it."""
