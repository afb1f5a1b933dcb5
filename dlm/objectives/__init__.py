"""objectives — batch → what is trained (loss) and what is reported (bound), in nats."""
