"""One function per stage: files in, files out, resumable; the command line only calls these."""
