"""What an operator is told before anything goes wrong, and after: doctor, explain, and settings for other programs."""
