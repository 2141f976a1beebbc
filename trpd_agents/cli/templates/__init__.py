"""What `trpd init` writes: working files, in which names are replaced."""
