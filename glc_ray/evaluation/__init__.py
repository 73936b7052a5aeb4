"""What rendered videos are worth."""
