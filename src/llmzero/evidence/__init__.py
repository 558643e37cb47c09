"""What is seen of a stage, and what is proposed for the next one."""
