"""oracle — worlds whose law is known exactly."""
