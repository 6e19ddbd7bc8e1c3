"""Stand-ins for the dropout of well-known NumPy networks: one file for each protocol, and nobody else imports them."""
