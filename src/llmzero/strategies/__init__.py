"""What a search finds: schedules and rules as files."""
