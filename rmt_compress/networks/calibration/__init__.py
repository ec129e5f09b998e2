"""What calibration inputs tell of a network, be they real ones or such as it makes itself."""
