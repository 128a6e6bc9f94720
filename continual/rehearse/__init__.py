"""Writing, checking and keeping rehearsed samples."""
