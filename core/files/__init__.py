"""Files: atomic writing, kohya's key names, network files and their metadata, resume states."""
