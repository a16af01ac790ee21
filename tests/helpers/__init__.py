"""What several test modules share: small inputs, forged projects, servers (`from helpers.tables import …`)."""
