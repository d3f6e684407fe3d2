"""The programs that the tab lives in; each module alone imports its host."""
