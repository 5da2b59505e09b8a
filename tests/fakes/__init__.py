"""Stand-ins for what lies outside the process: servers and programs."""
