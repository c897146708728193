"""The commands, one file each: parse, call the public API, print."""
