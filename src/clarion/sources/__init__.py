"""Where events come from: programs that emit, and verified webhooks of other services (`inbound`)."""
