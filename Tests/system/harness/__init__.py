"""What the system tests need to run real daemons, servers and clients."""
