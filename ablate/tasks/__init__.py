"""What a trial does: everything that knows of data, models and training lies below."""
