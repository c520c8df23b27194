"""Examples of workers and apps; each is a package run from the repository root."""
