"""What people do with Corral, as programs that run. Each is run by a test."""
