"""What a job will take, before any of it is done: forwards, operations, bytes, seconds."""
