"""What tests and the fault campaign share."""
