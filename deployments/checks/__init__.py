"""What `samebits doctor` looks at, a file for each system. Nothing here changes anything."""
