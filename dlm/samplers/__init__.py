"""samplers — from a network to tokens: rules, remasking and drivers, plans, requests."""
