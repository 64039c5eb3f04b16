"""The ground floor: command lines, files and locks. Imports nothing else of src, and never torch, so that --help and
errors in the usage are there at once. Everything may import it."""
