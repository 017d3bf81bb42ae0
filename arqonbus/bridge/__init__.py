"""The bridge to NATS: JetStream subjects in and out of rooms, at least once in both directions."""
