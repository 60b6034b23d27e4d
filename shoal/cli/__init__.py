"""The command line. It speaks HTTP to a server, reads index roots, and starts jobs and the server as processes."""
