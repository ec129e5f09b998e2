"""What a setting is. A frozen dataclass of settings says all there is to say of each on one line."""
